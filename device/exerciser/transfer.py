# SPDX-License-Identifier: Apache-2.0
"""One DMA: its request, copied once from registers or descriptors, and its side of the buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from dma_rehearsal.device.endpoints.bar_memory import MemoryData
from dma_rehearsal.device.endpoints.dma import PLAIN, Attributes, Data, DmaRefused
from dma_rehearsal.device.layout import DmaAttribute, DmaDirection, DmaReason

_NOTHING = DmaAttribute(0)


class Segment(NamedTuple):
    """A range of bus addresses and its place in the device's buffer. All in bytes.

    ``flags``: those of the ring's descriptor that it came from.
    """

    address: int
    length: int
    offset: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One DMA. ``asked`` is what the record shows; ``attributes`` is what leaves the device.

    ``used`` are the places that a sloppy device takes for those that were asked for.
    """

    direction: DmaDirection
    segments: tuple[Segment, ...]
    attributes: Attributes = PLAIN
    asked: DmaAttribute = _NOTHING
    used: tuple[Segment, ...] = ()

    @property
    def bus_segments(self) -> tuple[Segment, ...]:
        """Return the segments that go to the bus."""
        return self.used or self.segments

    @property
    def address(self) -> int:
        """Return the first bus address."""
        return self.segments[0].address

    @property
    def offset(self) -> int:
        """Return the first byte's place in the device's buffer."""
        return self.segments[0].offset

    @property
    def length(self) -> int:
        """Return the bytes of all segments."""
        segments = self.segments
        if len(segments) == 1:
            return segments[0].length
        return sum([segment.length for segment in segments])

    @property
    def writes_memory(self) -> bool:
        """Return whether data leave the device."""
        return self.direction is DmaDirection.WRITE_MEMORY

    def moved(self, direction: DmaDirection) -> Transfer:
        """Return the transfer with the direction in which its data were moved."""
        return self if direction is self.direction else replace(self, direction=direction)

    def part(self, start: int, length: int) -> Transfer:
        """Return ``length`` bytes from ``start`` on, of a transfer of one segment."""
        return replace(
            self,
            segments=_part(self.segments, start, length),
            used=_part(self.used, start, length) if self.used else (),
        )


def _part(segments: tuple[Segment, ...], start: int, length: int) -> tuple[Segment, ...]:
    """Return ``length`` bytes from ``start`` on, of the bytes of all segments."""
    found = []
    for each in segments:
        first, end = max(start, 0), min(start + length, each.length)
        if first < end or (not length and 0 <= start <= each.length):
            found.append(Segment(each.address + first, end - first, each.offset + first))
            if not length:
                break
        start -= each.length
    return tuple(found)


# The device's side: its buffer, of which many segments are mostly one range.


def runs(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Return the device's side of segments, as ranges [start, end) of its buffer, in order.

    Those that go on where the one before ends are one.
    """
    found: list[tuple[int, int]] = []
    start = end = segments[0].offset
    for each in segments:
        if each.offset != end:
            found.append((start, end))
            start = each.offset
        end = each.offset + each.length
    return [*found, (start, end)]


def copied(source: MemoryData, segments: Sequence[Segment]) -> tuple[bytes, list[Data]]:
    """Return what the device sends, copied once: all of it, and each segment's part."""
    with memoryview(source) as buffer:
        whole = b"".join([buffer[start:end] for start, end in runs(segments)])
    if len(segments) == 1:
        return whole, [whole]
    view, ends = memoryview(whole), [*accumulate(each.length for each in segments)]
    return whole, [view[start:end] for start, end in pairwise([0, *ends])]


def stored(target: MemoryData, segments: Sequence[Segment], pieces: Iterable[bytes]) -> bytes:
    """Store what came for each segment; return all of it."""
    whole = b"".join(pieces)
    # By views: what a slice of a bytearray is given is copied once more.
    with memoryview(target) as buffer, memoryview(whole) as left:
        done = 0
        for start, end in runs(segments):
            buffer[start:end] = left[done : done + end - start]
            done += end - start
    return whole


# Called when a transfer has ended: (transfer, reason, bytes moved, their CRC-32).
Ended = Callable[[Transfer, DmaReason, int, int], None]

# Called when data were moved: (the direction in which, a copy of them), or were refused.
Moved = Callable[[DmaDirection, bytes | DmaRefused], None]
