# SPDX-License-Identifier: Apache-2.0
"""The cache model's registers: commands, and the reports that BAR1 shows."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device import layout
from dma_rehearsal.device.cache_model.names import Direction, Mode
from dma_rehearsal.device.cache_model.reports import Report
from dma_rehearsal.device.endpoints.bar_memory import MemoryData
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import CacheCommand, CacheReport, CacheStatus, Plat
from dma_rehearsal.device.layout.mailbox import MAIL_TAG_BASE
from dma_rehearsal.device.platform.tracks import TrackFailed, Tracks
from dma_rehearsal.device.platform.witness import WalkResult

_INPUTS = (
    *(Plat.CACHE_MODE, Plat.CACHE_LINE, Plat.CACHE_SEED_LO, Plat.CACHE_SEED_HI),
    *(Plat.CACHE_TAG, Plat.CACHE_DIRECTION, Plat.CACHE_OFFSET_LO, Plat.CACHE_OFFSET_HI),
    *(Plat.CACHE_LENGTH_LO, Plat.CACHE_LENGTH_HI),
)
# Commands that name no buffer.
_WITHOUT_TAG = (CacheCommand.CONFIGURE, CacheCommand.TAKE_REPORTS)


class CacheRegisters:
    """Commands drive the model under the interconnect's lock; DMA passes it while it is on.

    ``walk`` is the witness's, of its own registers; ``event`` writes to the trace: a name and
    facts.
    """

    def __init__(
        self,
        control: RegisterFile,
        results: MemoryData,
        interconnect: Interconnect,
        tracks: Tracks,
        *,
        walk: Callable[[], WalkResult],
        event: Callable[..., None],
    ) -> None:
        self._control, self._results, self._interconnect = control, results, interconnect
        self._tracks, self._walk, self._event = tracks, walk, event
        control.add(
            (
                Register(Plat.CACHE_CTL, Access.WO),
                Register(Plat.CACHE_STATUS, reset=CacheStatus.NEVER_RUN),
                *(Register(each, Access.RW) for each in _INPUTS),
                *(Register(each) for each in (Plat.CACHE_FAULT_LO, Plat.CACHE_FAULT_HI)),
                Register(Plat.CACHE_OPERATION_LO, read=self._number),
                Register(Plat.CACHE_OPERATION_HI, read=lambda: self._number() >> 32),
                Register(Plat.CACHE_REPORTS),
                Register(Plat.CACHE_REPORTS_LOST, read=self._lost),
            ),
            self,
        )

    def reset(self) -> None:
        """Turn the model off; drop every track, without touching memory."""
        with self._interconnect.lock:
            self._tracks.configure(Mode.OFF, 64, 0)

    def _number(self) -> int:
        with self._interconnect.lock:
            return self._tracks.model.number

    def _lost(self) -> int:
        with self._interconnect.lock:
            return self._tracks.model.reports.lost

    # Commands.

    def write_cache_ctl(self, value: int) -> None:
        """Do a command; its status is then ready."""
        control = self._control
        control.set_pair(Plat.CACHE_FAULT_LO, Plat.CACHE_FAULT_HI, 0)
        status, address = CacheStatus.OK, 0
        with self._interconnect.lock:
            try:
                if value not in _COMMANDS:
                    raise TrackFailed(CacheStatus.BAD_COMMAND)
                command, tag = CacheCommand(value), control[Plat.CACHE_TAG]
                if tag >= MAIL_TAG_BASE and command not in _WITHOUT_TAG:
                    raise TrackFailed(CacheStatus.BAD_BUFFER)  # the mailbox's
                self._tracks.attempt(command.name, tag, lambda: self._do(command, tag))
            except TrackFailed as failure:
                status, address = failure.status, failure.address
        control.set_pair(Plat.CACHE_FAULT_LO, Plat.CACHE_FAULT_HI, address)
        control[Plat.CACHE_STATUS] = status

    def _do(self, command: CacheCommand, tag: int) -> None:
        control, model = self._control, self._tracks.model
        offset = control.pair(Plat.CACHE_OFFSET_LO, Plat.CACHE_OFFSET_HI)
        length = control.pair(Plat.CACHE_LENGTH_LO, Plat.CACHE_LENGTH_HI)
        ranged = {
            CacheCommand.CLEAN: model.clean_range,
            CacheCommand.INVALIDATE: model.invalidate_range,
            CacheCommand.CLEAN_INVALIDATE: model.clean_invalidate_range,
            CacheCommand.ANNOUNCE_BEGIN: model.announce_begin,
            CacheCommand.ANNOUNCE_END: model.announce_end,
            CacheCommand.COMPLETE: model.complete,
        }
        if command is CacheCommand.CONFIGURE:
            self._take_configuration()
        elif command is CacheCommand.TAKE_REPORTS:
            self._event("cache", command=command.name, reports=self._take_reports())
            return
        elif command is CacheCommand.TRACK:
            self._track(tag, self._direction())
        elif command is CacheCommand.UNTRACK:
            self._tracks.untrack(tag)
        elif command in (CacheCommand.SYNC_FOR_DEVICE, CacheCommand.SYNC_FOR_CPU):
            to_device = command is CacheCommand.SYNC_FOR_DEVICE
            sync = model.sync_for_device if to_device else model.sync_for_cpu
            own = control[Plat.CACHE_DIRECTION] == 0
            sync(tag, offset, length, None if own else self._direction())
        else:
            ranged[command](tag, offset, length)
        self._event("cache", command=command.name, tag=tag, offset=offset, length=length)

    def _direction(self) -> Direction:
        try:
            return Direction(self._control[Plat.CACHE_DIRECTION])
        except ValueError:
            raise TrackFailed(CacheStatus.BAD_DIRECTION) from None

    def _take_configuration(self) -> None:
        control = self._control
        try:
            mode = Mode(control[Plat.CACHE_MODE])
        except ValueError:
            raise TrackFailed(CacheStatus.BAD_CONFIGURATION) from None
        seed = control.pair(Plat.CACHE_SEED_LO, Plat.CACHE_SEED_HI)
        self._tracks.configure(mode, control[Plat.CACHE_LINE], seed)

    def _track(self, tag: int, direction: Direction) -> None:
        control, walk = self._control, self._walk()
        start = control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI)
        length = control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI)
        self._tracks.track_walked(tag, direction, walk, start, length)
        self._event("tracked", tag=tag, runs=walk.facts())

    def _take_reports(self) -> int:
        taken = self._tracks.model.reports.take(layout.CACHE_REPORTS_MAX)
        self._tracks.forget_told(len(taken))
        packed = b"".join(_as_record(each).pack() for each in taken)
        self._results[:] = packed.ljust(len(self._results), b"\0")
        self._control[Plat.CACHE_REPORTS] = len(taken)
        return len(taken)


_COMMANDS = frozenset(CacheCommand)


def _as_record(report: Report) -> CacheReport:
    return CacheReport(
        *(report.kind, report.missing, report.by, report.last, report.buffer, report.other),
        *(report.line, report.lines, report.offset, report.number, report.last_number),
        *(report.expected, report.seen),
    )
