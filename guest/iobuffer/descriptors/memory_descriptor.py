# SPDX-License-Identifier: Apache-2.0
"""IOMemoryDescriptor: the base of all descriptors, whatever their memory is.

A subclass provides the memory (`_wire`, `_unwire`, `_wired`, `_read`, `_write`, `_map`);
lengths, bounds, nesting of prepare and complete, grants and cache maintenance are here. All methods
may be called by several threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from dma_rehearsal.guest.iobuffer.base import dma_activity, mistakes, provenance
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.flags import (
    CompleteFlags,
    MapOptions,
    MemoryOperation,
    PrepareFlags,
)
from dma_rehearsal.guest.iobuffer.base.fork_safe_lock import make_lock
from dma_rehearsal.guest.iobuffer.base.options import CACHE_FIELD, IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_up
from dma_rehearsal.guest.iobuffer.base.task import Task, current_task
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusWindow
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import (
    Grants,
    Holder,
    Preparation,
    Preparations,
    device_may,
)
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Reservation

_BELOW_4G: Final = 1 << 32
_SHOWN_MAX: Final = 4  # users in a message
_NON_COHERENT: Final = PrepareFlags.kIODirectionPrepareNonCoherent

Data = bytes | bytearray | memoryview
Part = tuple["IOMemoryDescriptor", int, int]  # descriptor, offset in it, length; in bytes


@dataclass(frozen=True, slots=True)
class MapRequest:
    """The arguments of `createMappingInTask`, checked: the part is within the memory.

    ``cache`` is the options' cache field, 0 for the memory's own. ``within``: a reservation of this
    process in which the mapping is to be placed, so that the part is at ``address``, which has the
    part's place in its page; the pages that hold the part are mapped whole.
    """

    task: Task
    address: int
    options: MapOptions
    cache: int
    offset: int
    length: int
    within: Reservation | None = None


def as_direction(value: int | IODirection) -> IODirection:
    """Return a direction; `IOBadArgumentError` for any other value."""
    try:
        return IODirection(value)
    except ValueError:
        raise IOBadArgumentError(f"direction {value!r}: kIODirectionNone to InOut") from None


def merged(segments: Iterator[Segment]) -> Iterator[Segment]:
    """Join segments that follow each other without a gap."""
    start = length = 0
    for address, size in segments:
        if length and start + length == address:
            length += size
            continue
        if length:
            yield start, length
        start, length = address, size
    if length:
        yield start, length


class IOMemoryDescriptor(ABC):
    """Memory for devices: `prepare` wires it, and tells the bus what they may do.

    ``direction`` is the way of the data: In = the device writes memory, Out = the device reads it.
    """

    # Preparations that complete() leaves alone: those the descriptor made for itself.
    _own_preparations = 0
    # Its bus addresses; None: they are physical, or those of the descriptors that it is made of.
    _window: BusWindow | None = None

    def __init__(self, direction: IODirection, tag: int = 0) -> None:
        self._direction = direction
        self._tag = tag
        self._record = provenance.Record(type(self).__name__, direction)
        self._lock = make_lock()
        self._preparations = Preparations()
        self._dma_users: list[object] = []

    # For subclasses to provide.

    @abstractmethod
    def getLength(self) -> int:
        """Return the length in bytes."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the memory; `IOBusyError`, and nothing done, while something uses it."""

    @property
    @abstractmethod
    def released(self) -> bool:
        """Whether `release` has been done."""

    @abstractmethod
    def _check_attached(self) -> None:
        """Raise `IONotAttachedError` after release, and in another process."""

    @abstractmethod
    def _wire(self, direction: IODirection) -> None:
        """Wire all of the memory; called for each preparation, before it counts."""

    @abstractmethod
    def _unwire(self) -> None:
        """Undo one `_wire`."""

    @abstractmethod
    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the bus segments of a part; only called while that is sensible."""

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes as the CPU sees them."""

    @abstractmethod
    def _write(self, offset: int, data: bytes) -> None:
        """Store bytes as the CPU does."""

    @abstractmethod
    def _map(self, request: MapRequest) -> IOMemoryMap:
        """Map a part that is within the memory."""

    @abstractmethod
    def _pages(self) -> Iterator[Segment]:
        """Yield (offset in its first page, length) of each range, as it lies in I/O space."""

    def _owners(self, offset: int, length: int) -> Iterator[Part]:
        """Yield the owners of a part's bytes: itself, unless it is made of other descriptors."""
        yield self, offset, length

    def _may_prefault(self) -> bool:
        """Whether the memory is in its place, so that a mapping can have all of its pages."""
        return len(self._preparations) > 0

    def _extent(self) -> int:
        """Bytes that are prepared: the capacity, where that is more than the length."""
        return self.getLength()

    def _mappable(self) -> int:
        """Bytes that can be mapped."""
        return self._extent()

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the physical segments of a part: those of `_wired`, unless an IOMMU translates."""
        return self._wired(offset, length)

    # Built on that.

    def getDirection(self) -> IODirection:
        """Return the direction that the descriptor was made for."""
        self._check_attached()
        return self._direction

    def getTag(self) -> int:
        """Return the number that the maker gave, 0 by default; it means nothing to us."""
        return self._tag

    def setTag(self, tag: int) -> None:
        """Set the tag."""
        self._tag = tag

    @property
    def made_at(self) -> str:
        """The "file:line" that made it, outside of this package."""
        return self._record.made_at

    @property
    def last_segments(self) -> list[Segment]:
        """The (bus address, bytes) of its newest preparation, also when it is released."""
        return list(self._record.segments)

    @property
    def reached_segments(self) -> list[Segment]:
        """The same, but with the bounce memory in place of bytes that went through it."""
        return self._record.reached()

    @property
    def made_sequence(self) -> int:
        """The reading of `provenance.clock` when it was made, 0 without a clock."""
        return self._record.made_sequence

    def getPhysicalSegment(self, offset: int = 0) -> Segment:
        """Return (bus address, bytes to the segment's end) at ``offset``; (0, 0) past the length.

        `IOBadArgumentError` for a negative offset; `IONotReadyError` while pageable memory is not
        prepared: it is nowhere that would last.
        """
        with self._lock:
            self._check_attached()
            if offset < 0:
                raise IOBadArgumentError(f"offset {offset}: at least 0")
            if offset >= self.getLength():
                return 0, 0
            return next(merged(self._wired(offset, self.getLength() - offset)))

    def getPhysicalAddress(self) -> int:
        """Return the bus address of the first byte, 0 for a descriptor without length."""
        return self.getPhysicalSegment(0)[0]

    def segments(self, offset: int = 0, length: int | None = None) -> list[Segment]:
        """Return the bus segments of a part, to the end by default; errors as above."""
        with self._lock:
            self._check_attached()
            length = self._checked(offset, length)
            return list(merged(self._wired(offset, length))) if length else []

    def physical_segments(self, offset: int = 0, length: int | None = None) -> list[Segment]:
        """Return the (physical address, length) of a part; `segments` without a mapper.

        Behind one, a device that is translated cannot use them. Errors as for `segments`.
        """
        with self._lock:
            self._check_attached()
            length = self._checked(offset, length)
            return list(merged(self._physical(offset, length))) if length else []

    def getDMAMapLength(self) -> tuple[int, int]:
        """Return (bytes of whole pages that a mapper needs, offset of the data in the first)."""
        with self._lock:
            self._check_attached()
            total, first = 0, None
            for skip, length in self._pages():
                first = skip if first is None else first
                total += align_up(skip + length, PAGE)
            return total, first or 0

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; nothing, not a part, when the range passes the length."""
        with self._lock:
            self._check_attached()
            if not self._inside(offset, length):
                return b""
            if self._dma_users and (where := self._newer_elsewhere(offset, length)):
                mistakes.record(
                    f"{self._record}: {length} bytes from offset {offset} on are read at "
                    f"{provenance.caller()}, and {where}: complete() the command before, or "
                    "synchronize(kIODirectionIn)"
                )
            return self._read(offset, length)

    def writeBytes(self, offset: int, data: Data | None, length: int | None = None) -> int:
        """Store ``data`` (None: ``length`` zeros) and return how many bytes were stored.

        0, and nothing is stored, when the range passes the length.
        """
        with self._lock:
            self._check_attached()
            if data is None:
                count = self.getLength() - offset if length is None else length
            else:
                data = bytes(data)  # lengths are bytes, also of a view with wider items
                count = len(data) if length is None else length
                if count > len(data):
                    raise IOBadArgumentError(
                        f"{count} bytes asked, {len(data)} given", length=count
                    )
            if not self._inside(offset, count):
                return 0
            self._write(offset, bytes(count) if data is None else data[:count])
            return count

    def prepare(self, forDirection: int | IOOptions | None = None, flags: int = 0) -> None:
        """Wire the memory and let devices reach it; nests. Each call wants one `complete`.

        ``forDirection``: the way of the data, None for the descriptor's own. Out lets a device
        read, In lets it write, None of both (kIODirectionNone) both. As in IOKit it can hold flags
        too.

        Raises `IOReturnError` (kIOReturnNotWritable: In after Out; kIOReturnNoResources:
        kIODirectionPrepareToPhys32 and memory above 4 GiB), `IOCannotWireError`, and what the
        access control or the mapper says; `IOBusyError` when a mapper would map the memory anew
        for what devices may do beside it, and a DMA may be active.
        """
        with self._lock:
            self._check_attached()
            direction, others = self._split(forDirection, flags, sum(PrepareFlags))
            wanted = PrepareFlags(others)
            first = len(self._preparations) == self._own_preparations
            if first:
                self._record.begin()
            self._acquire(direction, wanted, grant=True)
            if wanted & _NON_COHERENT:
                for part in self._made_of(0, None):
                    dma_platform.coherence.clean(*part)

    def complete(self, forDirection: int | IOOptions | None = None, flags: int = 0) -> None:
        """Undo the newest prepare (with ``forDirection``, the newest for that direction).

        Raises `IONotReadyError` without one, and `IOBusyError`, nothing being undone, when a DMA
        may still be active and it is the last one, or devices may do less without it and a mapper
        has the memory.
        """
        with self._lock:
            self._check_attached()
            direction, others = self._split(forDirection, flags, sum(CompleteFlags))
            named = direction if forDirection is not None or flags & 0x3 else None
            newest = self._preparations.newest(named, self._own_preparations)
            left = self._preparations.rights(without=newest)
            mapped_anew = self._window is not None and self._window.changes(left)
            last = len(self._preparations) == 1 + self._own_preparations
            if mapped_anew or last:
                self._check_idle("complete()")
            if others & CompleteFlags.kIODirectionPrepareNonCoherent:
                for part in self._made_of(0, None):
                    dma_platform.coherence.clean_and_invalidate(*part)
            if last and dma_platform.coherence.line > 1:
                for part in self._made_of(0, None):
                    dma_platform.coherence.completed(*part)
            self._drop(newest)
            if last:
                coverage.ended(self._record, device_may(newest.direction))

    def getPreparationID(self) -> int:
        """Return the number of this wiring, 0 when unprepared.

        It is the same from the first prepare to the last complete, and no other wiring's.
        """
        with self._lock:
            self._check_attached()
            return self._preparations.id

    @property
    def prepared(self) -> int:
        """The number of open preparations, including the descriptor's own."""
        return len(self._preparations)

    def createMappingInTask(
        self,
        intoTask: Task,
        atAddress: int = 0,
        options: int = MapOptions.kIOMapAnywhere,
        offset: int = 0,
        length: int = 0,
    ) -> IOMemoryMap:
        """Map a part into a task, and return the mapping; ``length`` 0 is `getLength`.

        Options are `MapOptions` and one cache mode. Raises `IOBadArgumentError` for a range that is
        not within the memory (its capacity counts), `IOBusyError` for a cache mode that conflicts,
        `IOUnsupportedError` for a mapping that this memory cannot have.
        """
        with self._lock:
            self._check_attached()
            if not isinstance(intoTask, Task):
                raise IOBadArgumentError(f"intoTask must be a Task, not {intoTask!r}")
            cache = int(options) & CACHE_FIELD
            wanted = MapOptions(int(options) & ~CACHE_FIELD)
            if wanted & ~MapOptions(sum(MapOptions)):
                raise IOBadArgumentError(f"map options {int(options):#x}: unknown bits")
            if wanted & MapOptions.kIOMapOverwrite:
                raise IOBadArgumentError("kIOMapOverwrite would replace existing mappings")
            if length == 0:
                length = self.getLength()
            if offset < 0 or length < 0 or not offset < offset + length <= self._mappable():
                raise IOBadArgumentError(
                    f"{length} bytes from {offset} on: {self._mappable()} can be mapped",
                    length=length,
                )
            if wanted & MapOptions.kIOMapPrefault and not self._may_prefault():
                raise IONotReadyError("kIOMapPrefault needs prepared memory: call prepare() first")
            return self._map(MapRequest(intoTask, atAddress, wanted, cache, offset, length))

    def map(self, options: int = MapOptions.kIOMapAnywhere) -> IOMemoryMap:
        """Map all of it into this process."""
        return self.createMappingInTask(current_task(), 0, options)

    def performOperation(self, operation: int, offset: int, length: int) -> None:
        """Clean (kIOMemoryIncoherentIOStore) or clean and invalidate (Flush) a part."""
        try:
            what = MemoryOperation(operation)
        except ValueError:
            raise IOReturnError(
                f"operation {operation!r}: IncoherentIOFlush or IncoherentIOStore",
                code=IOReturn.kIOReturnUnsupported,
            ) from None
        store = what is MemoryOperation.kIOMemoryIncoherentIOStore
        caches = dma_platform.coherence
        for part in self._made_of(offset, length):
            caches.clean(*part) if store else caches.clean_and_invalidate(*part)

    def sync_for_device(
        self, offset: int = 0, length: int | None = None, direction: int | IOOptions | None = None
    ) -> None:
        """Give a part to the device; call it after the CPU's stores and before the DMA."""
        for part in self._made_of(offset, length):
            dma_platform.coherence.sync_for_device(*part, self._direction_for(direction))

    def sync_for_cpu(
        self, offset: int = 0, length: int | None = None, direction: int | IOOptions | None = None
    ) -> None:
        """Take a part back; call it after the DMA and before the CPU's loads."""
        for part in self._made_of(offset, length):
            dma_platform.coherence.sync_for_cpu(*part, self._direction_for(direction))

    def __enter__(self) -> Self:
        self._check_attached()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release, unless that is done. With an error on its way, its traceback holds the views."""
        if self.released:
            return
        try:
            self.release()
        except IOBusyError:
            if error is None:
                raise

    # Its users for DMA.

    def _newer_elsewhere(self, offset: int, length: int) -> str:
        """Say where newer bytes of a part are than in the memory; "" for nowhere."""
        for user in list(self._dma_users):
            if where := self._newer_in(user, offset, length):
                return where
        return ""

    def _newer_in(self, user: object, offset: int, length: int) -> str:
        look = getattr(user, "_newer_of", None)
        return "" if look is None else str(look(self, offset, length))

    def _open_window(self, direction: IODirection, physical: Iterator[Segment]) -> None:
        """Have the IOMMU give devices the rights of the preparations, and of ``direction``."""
        window = self._window
        if window is None or not window.translated:
            return
        rights = self._preparations.rights(direction)
        if window.changes(rights) and len(self._preparations):
            self._check_idle(f"prepare() for {direction.name}")
        window.allow(rights, list(merged(physical)))

    def _narrow_window(self, physical: Iterator[Segment]) -> None:
        """Have the IOMMU give devices only the rights of the preparations that are left."""
        window = self._window
        if window is None or not window.translated:
            return
        rights = self._preparations.rights()
        if rights is IODirection.kIODirectionNone:
            window.close()
        else:
            window.allow(rights, list(merged(physical)))

    def _use(self, user: object) -> None:
        """Have `complete` and `release` refuse while ``user`` (its ``str`` is shown) works."""
        with self._lock:
            self._check_attached()
            self._dma_users.append(user)

    def _unuse(self, user: object) -> None:
        with self._lock:
            self._dma_users = [each for each in self._dma_users if each is not user]

    def _check_idle(self, what: str) -> None:
        """Raise `IOBusyError` when a DMA may be active."""
        users = []
        for each in self._dma_users[:_SHOWN_MAX]:
            where = self._newer_in(each, 0, self._extent())
            users.append(f"{each!s}: {where}" if where else str(each))
        if len(self._dma_users) > _SHOWN_MAX:
            users.append(f"and {len(self._dma_users) - _SHOWN_MAX} more")
        if len(self._preparations):
            try:
                places = list(merged(self._wired(0, self._extent())))
            except IONotReadyError:  # a complete() that failed half-way: where it was all
                places = list(self._record.segments)
            users += dma_activity.in_flight(places)
        if users:
            raise self._busy(f"{what} while DMA may be active: {'; '.join(users)}")

    # Help for subclasses.

    def _made_of(self, offset: int, length: int | None) -> list[Part]:
        """Return the parts that caches are maintained by; errors as for `segments`."""
        with self._lock:
            self.segments(offset, length)  # wired, and within our length
            length = self._checked(offset, length)
            return list(self._owners(offset, length)) if length else []

    def _busy(self, why: str) -> IOBusyError:
        """Return the error that the memory is still used; ``why`` names its user."""
        try:
            address = self.getPhysicalAddress()
        except IONotReadyError:
            address = None
        return IOBusyError(
            f"{self!r}: {why}", address=address, length=self.getLength(), direction=self._direction
        )

    def _direction_for(self, given: int | IOOptions | None) -> IODirection:
        return as_direction(int(given)) if given else self._direction

    def _split(
        self, given: int | IOOptions | None, flags: int, known: int
    ) -> tuple[IODirection, int]:
        """Return the direction and the other flags, which IOKit has in one number."""
        both = int(flags) | (0 if given is None else int(given))
        if both & ~(known | 0x3):
            raise IOBadArgumentError(f"direction and flags {both:#x}: unknown bits")
        return self._direction_for(both & 0x3), both & ~0x3

    def _acquire(
        self, direction: IODirection, flags: PrepareFlags, *, grant: bool, by: Holder | None = None
    ) -> Preparation:
        """Wire, and count it; ``grant`` also tells the access control.

        ``by``: the descriptor that wires us for itself; `complete` leaves that alone, `_drop` ends
        it.
        """
        self._preparations.check(direction)
        self._wire(direction)
        try:
            parts = list(merged(self._wired(0, self._extent())))
            if flags & PrepareFlags.kIODirectionPrepareToPhys32:
                above = [at for at, size in parts if at + size > _BELOW_4G]
                if above:
                    raise IOReturnError(
                        f"kIODirectionPrepareToPhys32: memory at {above[0]:#x} is above 4 GiB",
                        code=IOReturn.kIOReturnNoResources,
                        address=above[0],
                    )
            grants = Grants(parts, device_may(direction)) if grant else None
        except BaseException as error:
            undo(error, self._unwire)
            raise
        self._record.placed(parts)
        return self._preparations.push(direction, grants, by)

    def _drop(self, preparation: Preparation) -> None:
        """Undo one `_acquire`; whether a DMA is active is for the caller to know.

        When devices cannot be kept from the memory it stays open, and can be dropped again.
        """
        place = self._preparations.remove(preparation)
        try:
            self._unwire()
        except BaseException:
            self._preparations.restore(preparation, place)
            raise
        if not self._preparations:
            self._record.complete()

    def _inside(self, offset: int, length: int) -> bool:
        return offset >= 0 and length >= 0 and offset + length <= self.getLength()

    def _checked(self, offset: int, length: int | None) -> int:
        """Return the length of a part; `IOBadArgumentError` when it is not within ours."""
        if length is None:
            length = self.getLength() - offset
        if not self._inside(offset, length):
            raise IOBadArgumentError(
                f"{length} bytes from {offset} on: the length is {self.getLength()}", length=length
            )
        return length
