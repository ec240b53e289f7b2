# SPDX-License-Identifier: Apache-2.0
"""How the rules make reports: runs of lines that suffered the same, with bytes that differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from dma_rehearsal.device.cache_model.blame import Blame, blame
from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import Segment, Window
from dma_rehearsal.device.cache_model.masks import blended, count_runs, first_difference
from dma_rehearsal.device.cache_model.names import Operation
from dma_rehearsal.device.cache_model.reports import (
    MISSING,
    MissingCall,
    Report,
    ReportKind,
    Reports,
)


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
        lines: bytes,
        kind: ReportKind,
        missing: MissingCall | None = None,
    ) -> None:
        """Report the lines in a mask whose bytes in G should have been in D."""
        for first, last, buffer, why in self._alike(window, lines, kind, self._operation):
            shown, memory, image, both = self._shown(window, first, last)
            told = why if missing is None else Blame(missing, why.other)
            right = memory if both == image else both
            self.report(window, (first, last, shown), kind, buffer, told, right, image)

    def report_image(
        self,
        window: Window,
        lines: bytes,
        kind: ReportKind,
        by: Operation | None = None,
    ) -> None:
        """Report the lines in a mask whose bytes in D should have been in G."""
        by = by or self._operation
        for first, last, buffer, why in self._alike(window, lines, kind, by):
            shown, memory, image, both = self._shown(window, first, last)
            right = image if both == memory else both
            self.report(window, (first, last, shown), kind, buffer, why, right, memory, by)

    def _alike(
        self, window: Window, lines: bytes, kind: ReportKind, by: Operation
    ) -> Iterator[tuple[int, int, Buffer, Blame]]:
        """Yield runs of lines of one last operation, one buffer and one cause."""
        segment = window.segment

        def alike(run: tuple[int, int]) -> tuple[int, int, Buffer, Blame]:
            index = run[0]
            buffer = self.named(window, index)
            why = self.blamed(kind, window, index, by, buffer)
            return segment.last[index], segment.when[index], buffer, why

        edges = self._edges(window)
        for first, last in self.reported(window, lines):
            runs = self._histories_at_edges(segment, edges, first, last)
            for (_, _, buffer, why), group in groupby(runs, alike):
                if self.reports.full:
                    self.reports.lost += 1
                    break
                found = list(group)
                yield found[0][0], found[-1][1], buffer, why

    def reported(self, window: Window, lines: bytes) -> Iterator[tuple[int, int]]:
        """Yield the runs of a mask of lines while there is room for reports; count the others."""
        for first, last in window.runs(lines):
            if self.reports.full:
                self.reports.lost += count_runs(lines[first - window.first :])
                return
            yield first, last

    def _edges(self, window: Window) -> set[int]:
        """Return the lines that are told apart from those beside them, which are few.

        They hold an edge: that of the window, or of a buffer inside a line.
        """
        segment = window.segment
        edges = {window.first, window.first + window.lines - 1}
        for buffer in segment.buffers:
            for backing, offset in buffer.edges:
                if backing == segment.backing:
                    edges.add((offset - segment.start) // self.line)
        return edges

    def _histories_at_edges(
        self, segment: Segment, edges: set[int], first: int, last: int
    ) -> Iterator[tuple[int, int]]:
        """Yield the runs of lines that may be told apart: a line that has an edge stands alone."""
        cuts = {cut for edge in edges for cut in (edge, edge + 1) if first < cut < last}
        for low, high in pairwise((first, *sorted(cuts), last)):
            yield from self.histories(segment, low, high)

    def histories(self, segment: Segment, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of lines, of [first, last), whose last operation is the same one."""
        begin, end, step = first, first + 1, 1
        while begin < last:
            step = min(step, last - end)
            if step and segment.same_history(begin, end, end + step):
                end, step = end + step, 2 * step
            elif step > 1:
                step //= 2
            else:
                yield begin, end
                begin, end, step = end, end + 1, 1

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
        low, high = first * self.line, last * self.line
        at = first_difference(segment.image[low:high], window.bytes_at(low, high))
        index = first + at // self.line if at < high - low else first
        start, end = index * self.line, (index + 1) * self.line
        memory, image = window.bytes_at(start, end), bytes(segment.image[start:end])
        both = blended(memory, image, bytes(segment.written[start:end]))
        return start, memory, image, both

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
