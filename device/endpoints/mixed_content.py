# SPDX-License-Identifier: Apache-2.0
"""The content of a BAR that has several parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dma_rehearsal.device.endpoints.bar_content import BarContent


class Part(NamedTuple):
    """A part of a BAR: ``size`` bytes from ``start`` on."""

    start: int
    size: int
    content: BarContent

    @property
    def end(self) -> int:
        """Return the offset behind it."""
        return self.start + self.size


class MixedContent(BarContent):
    """Parts side by side, in the order of their starts. The bytes between them read 0.

    An access that touches several parts is done part by part, the lowest first.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._starts = [part.start for part in parts]
        shared = (part.content.mappable for part in parts)
        self.mappable = next((each for each in shared if each is not None), None)

    def _whole(self, offset: int, length: int) -> Part | None:
        """Return the part that holds the whole range."""
        found = bisect_right(self._starts, offset) - 1
        if found < 0:
            return None
        part = self.parts[found]
        return part if offset + length <= part.end else None

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Part, int, int]]:
        """Yield each part that the range touches, with the first byte and the end in the BAR."""
        end = offset + length
        for part in self.parts[max(bisect_right(self._starts, offset) - 1, 0) :]:
            if part.start >= end:
                return
            if offset < part.end:
                yield part, max(offset, part.start), min(end, part.end)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``."""
        if part := self._whole(offset, length):
            return part.content.read(offset - part.start, length)
        data = bytearray(length)
        for part, first, end in self._pieces(offset, length):
            data[first - offset : end - offset] = part.content.read(first - part.start, end - first)
        return bytes(data)

    def peek(self, offset: int, length: int) -> bytes:
        """Return what is stored there, without side effects."""
        data = bytearray(length)
        for part, first, end in self._pieces(offset, length):
            data[first - offset : end - offset] = part.content.peek(first - part.start, end - first)
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``; what lies between the parts is lost."""
        for part, first, end in self._pieces(offset, len(data)):
            part.content.write(first - part.start, data[first - offset : end - offset])

    def acts(self, offset: int, length: int) -> bool:
        """Return whether a write has a side effect in one of the parts."""
        return any(
            part.content.acts(first - part.start, end - first)
            for part, first, end in self._pieces(offset, length)
        )

    def name(self, offset: int) -> str:
        """Return the name of the register that holds the byte at ``offset``, "" for none."""
        part = self._whole(offset, 1)
        return "" if part is None else part.content.name(offset - part.start)

    def view(self, offset: int, length: int) -> memoryview | None:
        """Return a view for the DMA of a peer; None for what is not all in one memory."""
        part = self._whole(offset, length)
        return None if part is None else part.content.view(offset - part.start, length)

    def has(self, offset: int, length: int) -> bool:
        """Return whether a migration can carry the range: it lies in one part, which can."""
        part = self._whole(offset, length)
        return part is not None and part.content.has(offset - part.start, length)

    def saved(self, offset: int, length: int) -> bytes:
        """Return what a migration carries of a range that it ``has``."""
        part = self._whole(offset, length)
        return b"" if part is None else part.content.saved(offset - part.start, length)

    def load(self, offset: int, data: bytes) -> None:
        """Store what ``saved`` returned, without side effects."""
        if part := self._whole(offset, len(data)):
            part.content.load(offset - part.start, data)

    def reset(self) -> None:
        """Reset each part."""
        for part in self.parts:
            part.content.reset()
