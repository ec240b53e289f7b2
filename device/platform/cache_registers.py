# SPDX-License-Identifier: Apache-2.0
"""The cache model's registers: commands, and the reports that BAR1 shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dma_rehearsal.device import layout
from dma_rehearsal.device.cache_model import names
from dma_rehearsal.device.cache_model.model import MakeModel
from dma_rehearsal.device.cache_model.names import CacheError, Direction, Mode, Span
from dma_rehearsal.device.cache_model.reports import Report
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import (
    CacheCommand,
    CacheReport,
    CacheStatus,
    MemoryType,
    Plat,
    WitnessStatus,
)
from dma_rehearsal.device.platform.cache_path import CachePath, joined
from dma_rehearsal.device.platform.file_memory import FileMemory, MemoryGone
from dma_rehearsal.device.platform.witness import WalkResult
from dma_rehearsal.device.vfio_user.errors import MemoryFault, NoDescriptor
from dma_rehearsal.device.vfio_user.model import FileRange

_INPUTS = (
    *(Plat.CACHE_MODE, Plat.CACHE_LINE, Plat.CACHE_SEED_LO, Plat.CACHE_SEED_HI),
    *(Plat.CACHE_TAG, Plat.CACHE_DIRECTION, Plat.CACHE_OFFSET_LO, Plat.CACHE_OFFSET_HI),
    *(Plat.CACHE_LENGTH_LO, Plat.CACHE_LENGTH_HI),
)
_STATUSES: dict[type[CacheError], CacheStatus] = {
    names.BadConfiguration: CacheStatus.BAD_CONFIGURATION,
    names.BadBuffer: CacheStatus.BAD_BUFFER,
    names.BadRange: CacheStatus.BAD_RANGE,
    names.BadType: CacheStatus.BAD_TYPE,
    names.BadAnnouncement: CacheStatus.BAD_ANNOUNCEMENT,
    names.Busy: CacheStatus.BUSY,
}
_WALKS = {
    WitnessStatus.NOT_PRESENT: CacheStatus.WALK_NOT_PRESENT,
    WitnessStatus.BAD_ARGUMENT: CacheStatus.WALK_BAD_ARGUMENT,
    WitnessStatus.TABLE_UNREACHABLE: CacheStatus.WALK_TABLE_UNREACHABLE,
    WitnessStatus.RESERVED_BIT: CacheStatus.WALK_RESERVED_BIT,
    WitnessStatus.TOO_MANY_RUNS: CacheStatus.WALK_TOO_MANY_RUNS,
    WitnessStatus.BUS_MASTER_OFF: CacheStatus.BUS_MASTER_OFF,
}


class _Failed(Exception):
    """A command that changed nothing, for a reason that is not the model's."""

    def __init__(self, status: CacheStatus, address: int = 0) -> None:
        super().__init__(status.name)
        self.status, self.address = status, address


class CacheRegisters:
    """Commands drive the model under the interconnect's lock; DMA passes it while it is on.

    ``make`` makes the model of a configuration; ``walk`` is the witness's, of its own registers;
    ``file_ranges`` gives the place of physical memory; ``event`` writes to the trace: a name and
    facts.
    """

    def __init__(
        self,
        control: RegisterFile,
        results: bytearray,
        interconnect: Interconnect,
        *,
        make: MakeModel,
        walk: Callable[[], WalkResult],
        file_ranges: Callable[[int, int], list[FileRange]],
        event: Callable[..., None],
    ) -> None:
        self._control, self._results, self._interconnect = control, results, interconnect
        self._make, self._walk, self._file_ranges, self._event = make, walk, file_ranges, event
        self._memory = FileMemory()
        self._model = make(self._memory, Mode.OFF, 64, 0)
        self._told = 0  # of the reports that are kept, how many the trace has
        self._told_lost = 0
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
            self._configure(Mode.OFF, 64, 0)

    def _number(self) -> int:
        with self._interconnect.lock:
            return self._model.number

    def _lost(self) -> int:
        with self._interconnect.lock:
            return self._model.reports.lost

    # Commands.

    def write_cache_ctl(self, value: int) -> None:
        """Do a command; its status is then ready."""
        control = self._control
        control.set_pair(Plat.CACHE_FAULT_LO, Plat.CACHE_FAULT_HI, 0)
        status, address = CacheStatus.OK, 0
        with self._interconnect.lock:
            try:
                self._do(CacheCommand(value) if value in _COMMANDS else None)
            except _Failed as failure:
                status, address = failure.status, failure.address
            except MemoryGone as gone:
                status, address = CacheStatus.MEMORY_GONE, gone.address
            except names.TooMuch as error:
                status = CacheStatus.TOO_MUCH
                name, tag = CacheCommand(value).name, control[Plat.CACHE_TAG]
                self._event("cache unchecked", command=name, tag=tag, why=str(error))
            except CacheError as error:
                status = _STATUSES[type(error)]
            self._tell()
        control.set_pair(Plat.CACHE_FAULT_LO, Plat.CACHE_FAULT_HI, address)
        control[Plat.CACHE_STATUS] = status

    def _do(self, command: CacheCommand | None) -> None:
        control, model = self._control, self._model
        tag = control[Plat.CACHE_TAG]
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
        if command is None:
            raise _Failed(CacheStatus.BAD_COMMAND)
        if command is CacheCommand.CONFIGURE:
            self._take_configuration()
        elif command is CacheCommand.TAKE_REPORTS:
            self._event("cache", command=command.name, reports=self._take_reports())
            return
        elif command is CacheCommand.TRACK:
            self._track(tag, self._direction())
        elif command is CacheCommand.UNTRACK:
            model.untrack(tag)
            self._memory.drop(tag)
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
            raise _Failed(CacheStatus.BAD_DIRECTION) from None

    def _take_configuration(self) -> None:
        control = self._control
        try:
            mode = Mode(control[Plat.CACHE_MODE])
        except ValueError:
            raise _Failed(CacheStatus.BAD_CONFIGURATION) from None
        seed = control.pair(Plat.CACHE_SEED_LO, Plat.CACHE_SEED_HI)
        self._configure(mode, control[Plat.CACHE_LINE], seed)

    def _configure(self, mode: Mode, line: int, seed: int) -> None:
        memory = FileMemory()
        model = self._make(memory, mode, line, seed)
        self._model, self._memory = model, memory
        self._told = self._told_lost = 0
        on = mode is not Mode.OFF
        self._interconnect.caches = CachePath(model, memory, self._tell) if on else None

    # Tracks.

    def _track(self, tag: int, direction: Direction) -> None:
        report = self._walk()
        if report.status is not WitnessStatus.OK:
            raise _Failed(_WALKS[report.status], report.fault_address)
        file_ranges: list[FileRange] = []
        runs: list[tuple[Span, MemoryType]] = []
        for physical, length, kind in self._physical(report):
            try:
                found = joined(self._file_ranges(physical, length))
            except NoDescriptor as fault:
                raise _Failed(CacheStatus.NO_BACKING, fault.address) from fault
            except MemoryFault as fault:
                raise _Failed(CacheStatus.MEMORY_GONE, fault.address) from fault
            file_ranges += found
            runs += [(Span(each.file, each.offset, each.length), kind) for each in found]
        self._memory.check_room(file_ranges)
        try:
            with self._memory.lent(file_ranges):
                self._model.track(tag, direction, runs)
        except names.Busy as busy:
            at = next(
                file_range.address + busy.offset - file_range.offset
                for file_range in file_ranges
                if file_range.file == busy.backing
                and busy.offset < file_range.offset + file_range.length
            )
            raise _Failed(CacheStatus.BUSY, at) from busy
        self._memory.keep(tag, file_ranges)
        self._event("tracked", tag=tag, runs=report.facts())

    def _physical(self, report: WalkResult) -> Iterator[tuple[int, int, MemoryType]]:
        """Yield (physical address, bytes, type) of the buffer, from its first to its last byte."""
        start = self._control.pair(Plat.WITNESS_VA_LO, Plat.WITNESS_VA_HI)
        end = start + self._control.pair(Plat.WITNESS_LENGTH_LO, Plat.WITNESS_LENGTH_HI)
        if end - start > names.MAX_OPERATION:
            raise _Failed(CacheStatus.BAD_RANGE)
        for run in report.runs:
            first, last = max(run.va, start), min(run.va + run.length, end)
            if first < last:
                yield run.physical + first - run.va, last - first, run.effective

    # Reports.

    def _take_reports(self) -> int:
        taken = self._model.reports.take(layout.CACHE_REPORTS_MAX)
        self._told = max(0, self._told - len(taken))
        packed = b"".join(_as_record(each).pack() for each in taken)
        self._results[:] = packed.ljust(len(self._results), b"\0")
        self._control[Plat.CACHE_REPORTS] = len(taken)
        return len(taken)

    def _tell(self) -> None:
        """Write the reports that an operation made to the trace, and how many found no room."""
        lost = self._model.reports.lost - self._told_lost
        if lost:
            self._told_lost += lost
            self._event("cache reports lost", count=lost)
        new = self._model.reports.since(self._told)
        self._told += len(new)
        for each in new:
            self._event(
                "cache report",
                kind=each.kind.name,
                missing=each.missing.name,
                tag=each.buffer,
                other=each.other,
                offset=each.offset,
                line=each.line,
                lines=each.lines,
                by=each.by.name,
                number=each.number,
                last=each.last.name,
                last_number=each.last_number,
                expected=each.expected.hex(),
                seen=each.seen.hex(),
            )


_COMMANDS = frozenset(CacheCommand)


def _as_record(report: Report) -> CacheReport:
    return CacheReport(
        *(report.kind, report.missing, report.by, report.last, report.buffer, report.other),
        *(report.line, report.lines, report.offset, report.number, report.last_number),
        *(report.expected, report.seen),
    )
