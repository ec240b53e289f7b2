# SPDX-License-Identifier: Apache-2.0
"""Reports: what a board would have done to a driver's data, and the call that was missing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dma_rehearsal.device import layout
from dma_rehearsal.device.cache_model.names import Operation

REPORTS_MAX = 256  # kept until they are taken; more are counted
REPORT_COST = 2048  # bytes that one takes, at most

ReportKind = layout.CacheReportKind
MissingCall = layout.CacheMissingCall

MISSING = {
    ReportKind.STORED_WHILE_DEVICE_OWNS: MissingCall.SYNC_FOR_CPU_BEFORE_STORE,
    ReportKind.WRITE_TO_DIRTY_LINE: MissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE,
    ReportKind.DEVICE_BYTES_LOST: MissingCall.SYNC_FOR_CPU_AFTER_RECEIVE,
    ReportKind.CPU_BYTES_LOST: MissingCall.SYNC_FOR_DEVICE_AFTER_STORE,
    ReportKind.RELEASED_DIRTY: MissingCall.SYNC_FOR_DEVICE_AFTER_STORE,
    ReportKind.RELEASED_UNREAD: MissingCall.SYNC_FOR_CPU_AFTER_RECEIVE,
    ReportKind.WRONG_DIRECTION: MissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION,
}


@dataclass(frozen=True, slots=True)
class Report:
    """One mistake. ``lines`` adjacent lines that suffered the same are one report.

    ``line`` counts the lines of ``buffer`` from 0. ``expected`` and ``seen`` are bytes from
    ``offset`` on in the first of these lines where they differ: what a correct driver's data would
    be, and what took its place. ``offset`` is from the buffer's first byte, negative where the
    buffer begins inside its first line. ``missing`` is the call that would have prevented it, and
    ``other`` the buffer whose bytes suffered, another one only where the two share a line. ``by``
    in operation ``number`` found it; ``last`` in ``last_number`` was the last operation on the
    first line before that.
    """

    kind: ReportKind
    missing: MissingCall
    buffer: int
    other: int
    offset: int
    line: int
    expected: bytes
    seen: bytes
    by: Operation
    number: int
    last: Operation
    last_number: int
    lines: int = 1

    @property
    def _cause(self) -> tuple[int, ...]:
        return (
            *(self.kind, self.missing, self.buffer, self.other),
            *(self.by, self.number, self.last, self.last_number),
        )

    def continues(self, earlier: Report) -> bool:
        """Return whether this is the same mistake on the line behind those of ``earlier``."""
        return (
            self.line == earlier.line + earlier.lines
            and self._cause == earlier._cause
            and self.kind is not ReportKind.WRONG_DIRECTION
        )


class Reports:
    """The reports that were not taken yet, oldest first. ``lost`` counts those without room."""

    def __init__(self, capacity: int = REPORTS_MAX) -> None:
        self._capacity = capacity
        self._kept: list[Report] = []
        self.lost = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def full(self) -> bool:
        """Return whether one more would be lost, so that the work of making it can be spared."""
        return len(self._kept) >= self._capacity

    @property
    def retained(self) -> int:
        """Return the bytes that the reports take, at most."""
        return REPORT_COST * len(self._kept)

    def add(self, report: Report) -> None:
        """Keep a report, joined to the last one where it continues that."""
        if self._kept and report.continues(self._kept[-1]):
            last = self._kept[-1]
            later = last.expected == last.seen and report.expected != report.seen
            shown = report if later else last
            self._kept[-1] = replace(
                last,
                lines=last.lines + report.lines,
                offset=shown.offset,
                expected=shown.expected,
                seen=shown.seen,
            )
        elif self.full:
            self.lost += 1
        else:
            self._kept.append(report)

    def since(self, start: int) -> list[Report]:
        """Return those from the ``start``-th on, and keep them."""
        return self._kept[start:]

    def take(self, limit: int | None = None) -> list[Report]:
        """Return the oldest reports, at most ``limit``, and forget them; ``lost`` stays."""
        taken = self._kept[:limit]
        del self._kept[:limit]
        return taken
