# SPDX-License-Identifier: Apache-2.0
"""What the cache model tracks of guest memory, and what became of each command to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dma_rehearsal.device.cache_model import names
from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.cache_model.names import CacheError, Direction, Mode, Span
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.layout import CacheStatus, MemoryType, WitnessStatus
from dma_rehearsal.device.platform.cache_path import CachePath, joined
from dma_rehearsal.device.platform.file_memory import FileMemory, MemoryGone
from dma_rehearsal.device.platform.witness import WalkResult
from dma_rehearsal.device.vfio_user.errors import MemoryFault, NoDescriptor
from dma_rehearsal.device.vfio_user.model import FileRange

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

Run = tuple[int, int, MemoryType]  # physical address, bytes, type


class TrackFailed(Exception):
    """A command that changed nothing. ``address``: where, for a status that says where."""

    def __init__(self, status: CacheStatus, address: int = 0) -> None:
        super().__init__(status.name)
        self.status, self.address = status, address


class Tracks:
    """The cache model in its place on the interconnect. All calls come under the latter's lock.

    ``make`` makes the model of a configuration; ``file_ranges`` gives the place of physical memory;
    ``event`` writes to the trace: a name and facts.
    """

    def __init__(
        self,
        interconnect: Interconnect,
        *,
        make: MakeModel,
        file_ranges: Callable[[int, int], list[FileRange]],
        event: Callable[..., None],
    ) -> None:
        self._interconnect = interconnect
        self._make, self._file_ranges, self._event = make, file_ranges, event
        self._told = 0  # of the reports that are kept, how many the trace has
        self._told_lost = 0
        self._memory = FileMemory()
        self.model: CacheModel = make(self._memory, Mode.OFF, 64, 0)

    def configure(self, mode: Mode, line: int, seed: int) -> None:
        """Begin anew with another model; drop every track, without touching memory."""
        memory = FileMemory()
        self.model = self._make(memory, mode, line, seed)
        self._memory = memory
        self._told = self._told_lost = 0
        on = mode is not Mode.OFF
        self._interconnect.caches = CachePath(self.model, memory, self.tell) if on else None

    def tracks(self, tag: int) -> bool:
        """Return whether a buffer is tracked by this tag."""
        return self.model.tracks(tag)

    def attempt(self, name: str, tag: int, command: Callable[[], None]) -> None:
        """Do a command, and tell the trace of its reports. TrackFailed."""
        try:
            command()
        except MemoryGone as gone:
            raise TrackFailed(CacheStatus.MEMORY_GONE, gone.address) from gone
        except names.TooMuch as error:
            self._event("cache unchecked", command=name, tag=tag, why=str(error))
            raise TrackFailed(CacheStatus.TOO_MUCH) from error
        except CacheError as error:
            raise TrackFailed(_STATUSES[type(error)]) from error
        finally:
            self.tell()

    # Commands, for `attempt`.

    def track_walked(
        self,
        tag: int,
        direction: Direction,
        walk: WalkResult,
        start: int,
        length: int,
        *,
        stored: bool = False,
    ) -> None:
        """Track ``length`` bytes from virtual address ``start`` on, which were walked.

        ``stored`` as in ``CacheModel.track``.
        """
        if walk.status is not WitnessStatus.OK:
            raise TrackFailed(_WALKS[walk.status], walk.fault_address)
        if length > names.MAX_OPERATION:
            raise TrackFailed(CacheStatus.BAD_RANGE)
        self.track(tag, direction, _physical(walk, start, start + length), stored=stored)

    def track(
        self,
        tag: int,
        direction: Direction,
        runs: Iterator[Run] | Sequence[Run],
        *,
        stored: bool = False,
    ) -> None:
        """Track physical memory, in the order of the buffer's addresses; ``stored`` as above."""
        file_ranges: list[FileRange] = []
        spans: list[tuple[Span, MemoryType]] = []
        for physical, length, kind in runs:
            try:
                found = joined(self._file_ranges(physical, length))
            except NoDescriptor as fault:
                raise TrackFailed(CacheStatus.NO_BACKING, fault.address) from fault
            except MemoryFault as fault:
                raise TrackFailed(CacheStatus.MEMORY_GONE, fault.address) from fault
            file_ranges += found
            spans += [(Span(each.file, each.offset, each.length), kind) for each in found]
        self._memory.check_room(file_ranges)
        try:
            with self._memory.lent(file_ranges):
                self.model.track(tag, direction, spans, stored=stored)
        except names.Busy as busy:
            at = next(
                file_range.address + busy.offset - file_range.offset
                for file_range in file_ranges
                if file_range.file == busy.backing
                and busy.offset < file_range.offset + file_range.length
            )
            raise TrackFailed(CacheStatus.BUSY, at) from busy
        self._memory.keep(tag, file_ranges)

    def untrack(self, tag: int, how: names.Release = names.Release.SETTLED) -> None:
        """Let a buffer go."""
        self.model.untrack(tag, how)
        self._memory.drop(tag)

    # Reports.

    def forget_told(self, count: int) -> None:
        """Take note that the oldest ``count`` reports were taken."""
        self._told = max(0, self._told - count)

    def tell(self) -> None:
        """Write the reports that an operation made to the trace, and how many found no room."""
        reports = self.model.reports
        if reports.lost != self._told_lost:
            self._event("cache reports lost", count=reports.lost - self._told_lost)
            self._told_lost = reports.lost
        if len(reports) == self._told:
            return
        new = reports.since(self._told)
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


def _physical(walk: WalkResult, start: int, end: int) -> Iterator[Run]:
    """Yield the runs of a buffer, from its first to its last byte."""
    for run in walk.runs:
        first, last = max(run.va, start), min(run.va + run.length, end)
        if first < last:
            yield run.physical + first - run.va, last - first, run.effective
