"""How the rules make reports: runs of lines that suffered the same, with bytes that differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from .blame import Blame, blame
from .buffers import Buffer
from .differences import joined
from .lines import Segment, Window
from .names import Operation
from .reports import MISSING, MissingCall, Report, ReportKind, Reports


class Reporting:
    """The reports of one model; the base of its rules."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.reports = Reports()
        self.number = 0  # of the operation that runs, or ran last
        self._operation = Operation.TRACK
        self._buffer: Buffer | None = None  # whose call it is, if it is one buffer's

    def report_memory(
        self,
        window: Window,
        lines: Iterable[tuple[int, int]],
        kind: ReportKind,
        missing: MissingCall | None = None,
    ) -> None:
        """Report runs of lines whose bytes in G should have been in D."""
        for first, last, buffer, why in self._alike(window, lines, kind, self._operation):
            shown, memory, image, both = self._shown(window, first, last)
            told = why if missing is None else Blame(missing, why.other)
            right = memory if both == image else both
            self.report(window, (first, last, shown), kind, buffer, told, right, image)

    def report_image(
        self,
        window: Window,
        lines: Iterable[tuple[int, int]],
        kind: ReportKind,
        by: Operation | None = None,
    ) -> None:
        """Report runs of lines whose bytes in D should have been in G."""
        by = by or self._operation
        for first, last, buffer, why in self._alike(window, lines, kind, by):
            shown, memory, image, both = self._shown(window, first, last)
            right = image if both == memory else both
            self.report(window, (first, last, shown), kind, buffer, why, right, memory, by)

    def _alike(
        self, window: Window, lines: Iterable[tuple[int, int]], kind: ReportKind, by: Operation
    ) -> Iterator[tuple[int, int, Buffer, Blame]]:
        """Yield runs of lines of one last operation, one buffer and one cause."""
        segment = window.segment

        def alike(index: int) -> tuple[int, int, Buffer, Blame]:
            buffer = self.named(window, index)
            why = self.blamed(kind, window, index, by, buffer)
            return segment.last[index], segment.when[index], buffer, why

        for first, last in lines:
            if self.reports.full:
                self.reports.lost += 1
                continue
            for (_, _, buffer, why), group in groupby(range(first, last), alike):
                found = list(group)
                yield found[0], found[-1] + 1, buffer, why

    def named(self, window: Window, index: int) -> Buffer:
        """Return the buffer that a report names: the call's, or the one that the DMA was for."""
        segment = window.segment
        if self._buffer is not None or len(segment.buffers) == 1:
            return self._buffer or segment.buffers[0]
        place = segment.start + max(window.low, index * self.line)
        return next(
            (each for each in segment.buffers if each.has(segment.backing, place)),
            segment.buffers[0],
        )

    def blamed(
        self, kind: ReportKind, window: Window, index: int, by: Operation, buffer: Buffer
    ) -> Blame:
        """Return which call was missing."""
        return blame(kind, window, index, by, buffer)

    def _shown(self, window: Window, first: int, last: int) -> tuple[int, bytes, bytes, bytes]:
        """Return where the first line that differs begins, and its bytes in G, in D and in both.

        The last are what the CPU stored and what the device wrote, each in its place.
        """
        segment = window.segment
        index = next((each for each in range(first, last) if self._differs(window, each)), first)
        start, end = index * self.line, (index + 1) * self.line
        memory, image = window.bytes_at(start, end), bytes(segment.image[start:end])
        written = segment.written[start:end]
        places = zip(memory, image, written, strict=True)
        both = bytes(device if mark else stored for stored, device, mark in places)
        return start, memory, image, both

    def _differs(self, window: Window, index: int) -> bool:
        start, end = index * self.line, (index + 1) * self.line
        return not window.segment.image.startswith(window.bytes_at(start, end), start)

    def report(
        self,
        window: Window,
        lines: tuple[int, int, int],
        kind: ReportKind,
        buffer: Buffer,
        why: Blame | None = None,
        expected: bytes = b"",
        seen: bytes = b"",
        by: Operation | None = None,
    ) -> None:
        """Add a report about ``lines``: first, end, and the position that the bytes are from."""
        if self.reports.full:
            self.reports.lost += 1
            return
        segment = window.segment
        first, last, shown = lines
        offset = buffer.position(segment.backing, segment.start + shown)
        before = buffer.position(segment.backing, segment.start + first * self.line)
        missing, other = why or Blame(MISSING[kind], buffer.tag)
        self.reports.add(
            Report(
                *(kind, missing, buffer.tag, other, offset, buffer.line_number(before)),
                *(expected, seen, by or self._operation, self.number),
                *(Operation(segment.last[first]), segment.when[first]),
                lines=last - first,
            )
        )


def lines_written(segment: Segment, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of lines that have bytes in W at positions [low, high)."""

    def written() -> Iterator[int]:
        position = low
        while (position := segment.written.find(b"\xff", position, high)) >= 0:
            yield position // segment.line
            position = (position // segment.line + 1) * segment.line

    return joined(written())
