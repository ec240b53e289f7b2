# SPDX-License-Identifier: Apache-2.0
"""Makes reports: runs of lines that suffered the same, with bytes that differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from dma_rehearsal.device.cache_model.blame import Blame, blame
from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import Extent, Window
from dma_rehearsal.device.cache_model.masks import blended, count_runs, first_difference
from dma_rehearsal.device.cache_model.names import Operation
from dma_rehearsal.device.cache_model.reports import (
    MISSING,
    MissingCall,
    Report,
    ReportKind,
    Reports,
)


class Reporter:
    """Makes the reports of one model, by the operation that runs.

    ``number`` is that of the operation that runs, or ran last; ``buffer`` the one whose call it is,
    if it is one buffer's.
    """

    def __init__(self, line: int) -> None:
        self.line = line
        self.reports = Reports()
        self.number = 0
        self.operation = Operation.TRACK
        self.buffer: Buffer | None = None

    def begin(self, operation: Operation) -> None:
        """Begin the next operation, which is not one buffer's until ``buffer`` is set."""
        self.number += 1
        self.operation, self.buffer = operation, None

    def report_memory(
        self,
        window: Window,
        lines: bytes,
        kind: ReportKind,
        missing: MissingCall | None = None,
    ) -> None:
        """Report the lines in a mask whose bytes in G should have been in D."""
        for first, last, buffer, why in self._alike(window, lines, kind, self.operation):
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
        by = by or self.operation
        for first, last, buffer, why in self._alike(window, lines, kind, by):
            shown, memory, image, both = self._shown(window, first, last)
            right = image if both == memory else both
            self.report(window, (first, last, shown), kind, buffer, why, right, memory, by)

    def _alike(
        self, window: Window, lines: bytes, kind: ReportKind, by: Operation
    ) -> Iterator[tuple[int, int, Buffer, Blame]]:
        """Yield runs of lines of one last operation, one buffer and one cause."""
        if 0xFF not in lines:
            return
        extent = window.extent

        def alike(run: tuple[int, int]) -> tuple[int, int, Buffer, Blame]:
            index = run[0]
            buffer = self.named(window, index)
            why = self.blamed(kind, window, index, by, buffer)
            return extent.last[index], extent.when[index], buffer, why

        edges = self._edges(window)
        for first, last in self.reported(window, lines):
            runs = self._histories_at_edges(extent, edges, first, last)
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
        extent = window.extent
        edges = {window.first, window.first + window.lines - 1}
        for buffer in extent.buffers:
            for backing, offset in buffer.edges:
                if backing == extent.backing:
                    edges.add((offset - extent.start) // self.line)
        return edges

    def _histories_at_edges(
        self, extent: Extent, edges: set[int], first: int, last: int
    ) -> Iterator[tuple[int, int]]:
        """Yield the runs of lines that may be told apart: a line that has an edge stands alone."""
        cuts = {cut for edge in edges for cut in (edge, edge + 1) if first < cut < last}
        for low, high in pairwise((first, *sorted(cuts), last)):
            yield from self.histories(extent, low, high)

    def histories(self, extent: Extent, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of lines, of [first, last), whose last operation is the same one."""
        begin, end, step = first, first + 1, 1
        while begin < last:
            step = min(step, last - end)
            if step and extent.same_history(begin, end, end + step):
                end, step = end + step, 2 * step
            elif step > 1:
                step //= 2
            else:
                yield begin, end
                begin, end, step = end, end + 1, 1

    def named(self, window: Window, index: int) -> Buffer:
        """Return the buffer that a report names: the call's, or the one that the DMA was for."""
        extent = window.extent
        if self.buffer is not None or len(extent.buffers) == 1:
            return self.buffer or extent.buffers[0]
        place = extent.start + max(window.low, index * self.line)
        return next(
            (each for each in extent.buffers if each.has(extent.backing, place)),
            extent.buffers[0],
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
        extent = window.extent
        low, high = first * self.line, last * self.line
        at = first_difference(extent.image[low:high], window.bytes_at(low, high))
        index = first + at // self.line if at < high - low else first
        start, end = index * self.line, (index + 1) * self.line
        memory, image = window.bytes_at(start, end), bytes(extent.image[start:end])
        both = blended(memory, image, bytes(extent.written[start:end]))
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
        extent = window.extent
        first, last, shown = lines
        offset = buffer.position(extent.backing, extent.start + shown)
        before = buffer.position(extent.backing, extent.start + first * self.line)
        missing, other = why or Blame(MISSING[kind], buffer.tag)
        self.reports.add(
            Report(
                *(kind, missing, buffer.tag, other, offset, buffer.line_number(before)),
                *(expected, seen, by or self.operation, self.number),
                *(Operation(extent.last[first]), extent.when[first]),
                lines=last - first,
            )
        )
