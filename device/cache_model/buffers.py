# SPDX-License-Identifier: Apache-2.0
"""Buffers that were tracked, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.cache_model.names import (
    BUFFER_COST,
    SPAN_COST,
    BadRange,
    Direction,
    Span,
)
from dma_rehearsal.device.cache_model.snapshots import Snapshots


@dataclass(slots=True, eq=False)
class Buffer:
    """A buffer that was tracked. ``owned`` are the snapshots of what the device owns.

    ``pieces`` counts the extents that it tracks; one that it tracks twice counts twice.
    """

    tag: int
    ordinal: int
    direction: Direction
    spans: Sequence[Span]
    line: int
    owned: Snapshots = field(default_factory=Snapshots)
    pieces: int = 0

    @property
    def edges(self) -> Iterator[tuple[Hashable, int]]:
        """Yield where the lines begin that hold other bytes as well: two at most."""
        first, last = self.spans[0], self.spans[-1]
        for span, place in ((first, first.offset), (last, last.offset + last.length)):
            if place % self.line:
                yield span.backing, place - place % self.line

    @property
    def retained(self) -> int:
        """Return the bytes that it takes at most, besides its snapshots."""
        return BUFFER_COST + SPAN_COST * len(self.spans)

    @property
    def length(self) -> int:
        """Return its bytes."""
        return sum(span.length for span in self.spans)

    def part(self, offset: int, length: int) -> list[Span]:
        """Return where some of its bytes lie. BadRange where it does not have them."""
        if offset < 0 or length <= 0 or offset + length > self.length:
            raise BadRange(
                f"bytes {offset} to {offset + length} of buffer {self.tag:#x}, "
                f"which has {self.length}"
            )
        found = []
        for span in self.spans:
            first, last = max(offset, 0), min(offset + length, span.length)
            if first < last:
                found.append(Span(span.backing, span.offset + first, last - first))
            offset -= span.length
        return found

    def position(self, backing: Hashable, offset: int) -> int:
        """Return how many bytes behind the buffer's first byte a place in one of its lines is.

        Negative in the first line before that byte.
        """
        passed = 0
        for span in self.spans:
            start = span.offset - span.offset % self.line
            end = span.offset + span.length
            if span.backing == backing and start <= offset < end + -end % self.line:
                return passed + offset - span.offset
            passed += span.length
        raise BadRange(f"offset {offset:#x} of {backing} is not in buffer {self.tag:#x}")

    def has(self, backing: Hashable, offset: int) -> bool:
        """Return whether a byte is the buffer's own, not just in a line of it."""
        return any(
            span.backing == backing and span.offset <= offset < span.offset + span.length
            for span in self.spans
        )

    def line_number(self, position: int) -> int:
        """Return the number of the line that holds a position, from 0."""
        return (position + self.spans[0].offset % self.line) // self.line


def check_spans(spans: Sequence[Span], line: int, limit: int) -> None:
    """Refuse spans that are empty, too long together, or do not join at lines: BadRange."""
    if not spans or any(span.length <= 0 or span.offset < 0 for span in spans):
        raise BadRange("an empty range")
    if sum(span.length for span in spans) > limit:
        raise BadRange(f"more than {limit} bytes at once")
    starts = [span.offset for span in spans[1:]]
    ends = [span.offset + span.length for span in spans[:-1]]
    if any(edge % line for edge in starts + ends):
        raise BadRange(f"parts of a buffer that do not join at lines of {line} bytes")
