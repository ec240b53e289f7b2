# SPDX-License-Identifier: Apache-2.0
"""Tracked buffers, and which segment holds a byte."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.cache_model.lines import Segment
from dma_rehearsal.device.cache_model.names import (
    BUFFER_COST,
    PIECE_COST,
    SPAN_COST,
    BadRange,
    Direction,
    Span,
)
from dma_rehearsal.device.cache_model.snapshots import Copies


@dataclass(slots=True, eq=False)
class Buffer:
    """A buffer that was tracked. ``owned`` are the snapshots of what the device owns."""

    tag: int
    ordinal: int
    direction: Direction
    spans: Sequence[Span]
    line: int
    owned: Copies = field(default_factory=Copies)

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


class Tracked:
    """All segments, by backing and offset. They never overlap, and begin and end at lines."""

    def __init__(self) -> None:
        self._segments: dict[Hashable, list[Segment]] = {}
        self.size = 0  # bytes of guest memory
        self.retained = 0  # bytes that their state takes

    def __len__(self) -> int:
        return sum(map(len, self._segments.values()))

    def pieces(
        self, backing: Hashable, start: int, end: int
    ) -> Iterator[tuple[Segment | None, int, int]]:
        """Yield [start, end) in order, cut where segments begin and end; None is not tracked."""
        segments = self._segments.get(backing, [])
        index = max(bisect_right(segments, start, key=_start) - 1, 0)
        while start < end:
            segment = segments[index] if index < len(segments) else None
            if segment is None or end <= segment.start:
                yield None, start, end
                return
            if start < segment.start:
                yield None, start, segment.start
                start = segment.start
            if start < segment.end:
                last = min(end, segment.end)
                yield segment, start, last
                start = last
            index += 1

    def cut(self, backing: Hashable, offset: int) -> None:
        """Make an edge between two segments at ``offset``, where one holds it."""
        segments = self._segments.get(backing, [])
        index = bisect_right(segments, offset, key=_start) - 1
        if index >= 0 and segments[index].start < offset < segments[index].end:
            segments.insert(index + 1, segments[index].split(offset))
            self.retained += PIECE_COST

    def add(self, segment: Segment) -> None:
        """Add lines that were not tracked."""
        segments = self._segments.setdefault(segment.backing, [])
        segments.insert(bisect_right(segments, segment.start, key=_start), segment)
        self.size += segment.size
        self.retained += segment.retained

    def remove(self, segment: Segment) -> None:
        """Forget lines."""
        segments = self._segments[segment.backing]
        del segments[bisect_right(segments, segment.start, key=_start) - 1]
        self.size -= segment.size
        self.retained -= segment.retained
        if not segments:
            del self._segments[segment.backing]

    def join(self, backing: Hashable, start: int, end: int) -> None:
        """Join what is alike again at and between two offsets."""
        segments = self._segments.get(backing, [])
        index = max(bisect_right(segments, start, key=_start) - 2, 0)
        while index + 1 < len(segments) and segments[index].start < end:
            if segments[index].joins(segments[index + 1]):
                segments[index].join(segments.pop(index + 1))
                self.retained -= PIECE_COST
            else:
                index += 1


def _start(segment: Segment) -> int:
    return segment.start
