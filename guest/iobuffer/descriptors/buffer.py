# SPDX-License-Identifier: Apache-2.0
"""IOBufferMemoryDescriptor: a buffer for DMA, and the promises made for it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar, Final, Self

from dma_rehearsal.guest.iobuffer.base import deferred, provenance
from dma_rehearsal.guest.iobuffer.base.blocking import check_may_block
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IONotAttachedError,
    IONotReadyError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.flags import PrepareFlags, PurgeableState
from dma_rehearsal.guest.iobuffer.base.options import (
    CacheMode,
    IODirection,
    IOOptions,
    kIOMemoryAutoPrepare,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment
from dma_rehearsal.guest.iobuffer.base.task import Task, current_task, kernel_task
from dma_rehearsal.guest.iobuffer.descriptors import coverage, remote
from dma_rehearsal.guest.iobuffer.descriptors.buffer_resources import BufferResources, reclaim
from dma_rehearsal.guest.iobuffer.descriptors.creation import (
    alignment_of,
    check_as_iokit,
    check_supported,
    check_values,
    default_alignment,
    make_place,
    make_request,
    mask_alignment,
    plain_options,
    warn_of_neighbours,
)
from dma_rehearsal.guest.iobuffer.descriptors.derived import clipped
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusPlacement, BusWindow
from dma_rehearsal.guest.iobuffer.descriptors.map_table import MapTable
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    Data,
    IOMemoryDescriptor,
    MapRequest,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import device_may
from dma_rehearsal.guest.iobuffer.descriptors.view_table import ViewTable
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap

_NO_FLAGS: Final = PrepareFlags(0)
_SHOWN_MAX: Final = 4  # holders in a message


class IOBufferMemoryDescriptor(IOMemoryDescriptor):
    """A zeroed buffer for DMA: wired, or pageable until it is prepared.

    Made by `inTaskWithOptions` and its kin. Use it in a ``with``, or call `release`. ::

        with IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionIn | kIOMapWriteCombineCache, 1024000, 256
        ) as buffer:
            buffer.view()[:4] = b"abcd"
            address, length = buffer.getPhysicalSegment(0)

    Wired memory is prepared from the start, for the descriptor's direction.
    """

    strict: ClassVar[bool] = False
    """Whether calls that IOKit refuses are refused, although they work here; set in a subclass.

    docs/iobuffer.md lists these calls. `iobuffer.cxx` has it on.
    """

    _backing: Backing | None
    _resources: BufferResources
    _task: Task
    _options: IOOptions
    _alignment: int
    _asked_alignment: int
    _maps: MapTable
    _views: ViewTable
    _capacity: int
    _length: int
    _finalizer: weakref.finalize[..., Any]

    def __init__(self) -> None:
        raise TypeError("use IOBufferMemoryDescriptor.inTaskWithOptions()")

    # Creation.

    @classmethod
    def inTaskWithOptions(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        pool: str | None = None,
    ) -> Self:
        """Allocate ``capacity`` bytes, zeroed, at a multiple of ``alignment`` (a power of two).

        Left out, it is a cache line where the device does not snoop the caches, else 1; an
        `IOAlignmentWarning` says so where less is asked for.

        ``inTask``: the task that has it mapped: `current_task`, `kernel_task` (none, until a
        mapping is created), or another process (`task_of`). ``pool`` names one pool; without it,
        all but those for narrow devices are tried. It may block, for as long as zeroing takes.

        Any cache mode that is stated raises the alignment to a page, as in IOKit. Every buffer has
        64 bytes at least, and its alignment, to itself; one below a page does not cross a page.

        Raises `IOBadArgumentError`, `IOUnsupportedError` (legal in IOKit, not possible here),
        `IONoMemoryError` (says the largest free run), `IONotPermittedError` (in a signal handler,
        or on a running asyncio loop) and `IODeviceError` (no driver, no answer of the task).
        """
        return cls._make(inTask, options, capacity, alignment, None, pool)

    @classmethod
    async def inTaskWithOptionsAsync(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        alignment: int | None = None,
        *,
        pool: str | None = None,
    ) -> Self:
        """Do the same in a thread, so that the running loop does not block."""
        import asyncio

        with provenance.made_by(provenance.caller()):  # the thread's frames are the pool's
            return await asyncio.to_thread(
                cls._make, inTask, options, capacity, alignment, None, pool
            )

    @classmethod
    def inTaskWithPhysicalMask(
        cls,
        inTask: Task,
        options: IOOptions | int,
        capacity: int,
        physicalMask: int,
        *,
        pool: str | None = None,
    ) -> Self:
        """Allocate memory whose bus addresses the mask allows; its low zeros are the alignment.

        0 restricts nothing. Errors as for `inTaskWithOptions`.
        """
        alignment, highest = mask_alignment(physicalMask, 1)
        asked = None if highest is None else alignment
        return cls._make(inTask, options, capacity, asked, highest, pool)

    @classmethod
    def withOptions(
        cls, options: IOOptions | int, capacity: int, alignment: int | None = None
    ) -> Self:
        """Allocate in the calling process, which has the part of IOKit's kernel.

        If ``strict``, in `kernel_task`; so for `withCapacity` and `withBytes`.
        """
        return cls._make(cls._home(), options, capacity, alignment, None, None)

    @classmethod
    def withCapacity(
        cls, capacity: int, direction: IODirection | IOOptions | int, contiguous: bool = False
    ) -> Self:
        """Allocate as `withOptions`; of options, only the direction and contiguity.

        Contiguous memory is aligned to its capacity, rounded up to a power of two.
        """
        options = plain_options(direction, contiguous)
        alignment = alignment_of(capacity) if contiguous else None
        return cls._make(cls._home(), options, capacity, alignment, None, None)

    @classmethod
    def withBytes(
        cls,
        data: bytes | bytearray | memoryview,
        direction: IODirection | IOOptions | int,
        contiguous: bool = False,
    ) -> Self:
        """Allocate as many bytes as ``data`` has, as `withOptions`, and store them.

        The alignment is the length, rounded up to a power of two, and a page at most.
        """
        content = bytes(data)
        alignment = alignment_of(min(len(content), PAGE))
        return cls._copied(cls._home(), plain_options(direction, contiguous), content, alignment)

    @classmethod
    def withCopy(
        cls,
        inTask: Task,
        options: IOOptions | int,
        source: bytes | bytearray | memoryview | IOMemoryDescriptor,
    ) -> Self:
        """Allocate as many bytes as ``source`` has, in a task, and store them.

        If ``strict``, of pageable memory alone.
        """
        if cls.strict and kIOMemoryPageable not in IOOptions.of(options):
            raise IOBadArgumentError("withCopy(): IOKit copies into kIOMemoryPageable alone")
        if isinstance(source, IOMemoryDescriptor):
            data = source.readBytes(0, source.getLength())
        else:
            data = bytes(source)
        return cls._copied(inTask, options, data)

    @classmethod
    def _home(cls) -> Task:
        """Where memory is made when no task is named."""
        return kernel_task if cls.strict else current_task()

    @classmethod
    def _make(
        cls,
        task: Task,
        options: IOOptions | int,
        capacity: int,
        asked_alignment: int | None,
        highest: int | None,
        pool: str | None,
    ) -> Self:
        check_may_block("allocating a buffer")
        options = IOOptions.of(options)
        alignment = default_alignment(asked_alignment)
        if not isinstance(task, Task):
            raise IOBadArgumentError(f"inTask must be a Task, such as current_task(), not {task!r}")
        check_values(options, capacity, alignment)
        check_supported(options)
        if cls.strict:
            check_as_iokit(task, options)
        if not (task.is_current or task.is_kernel or task.handle):
            raise remote.no_handle(task)
        request = make_request(task, options, capacity, alignment, highest)
        warn_of_neighbours(request.alignment, stacklevel=3)
        backing = pool_registry.take(request, pool)
        try:
            place = make_place(options, request.alignment, highest)
            made = cls._with(
                backing, task, options, capacity, request.alignment, alignment, place=place
            )
        except BaseException:
            backing.close()
            raise
        if not task.is_current and not task.is_kernel:
            made._make_in_task()
        return made

    @classmethod
    def _copied(
        cls, task: Task, options: IOOptions | int, data: bytes, alignment: int | None = None
    ) -> Self:
        made = cls._make(task, options, len(data), alignment, None, None)
        try:
            made._write(0, data)
        except BaseException as error:
            undo(error, made.release)
            raise
        return made

    def _make_in_task(self) -> None:
        """Have the task map the buffer, and take it over when we let go of it."""
        details = {
            "options": int(self._options),
            "capacity": self._capacity,
            "alignment": self._alignment,
        }
        try:
            self._resources.remote = remote.request(
                self._task, "make", self._attached().share(), details
            )
        except BaseException as error:
            undo(error, lambda: self._give_back(self._attached()))
            self._forget()
            raise

    @classmethod
    def _with(
        cls,
        backing: Backing,
        task: Task,
        options: IOOptions,
        capacity: int,
        alignment: int,
        asked_alignment: int,
        *,
        place: BusPlacement | None = None,
    ) -> Self:
        """Return a descriptor of ``backing``, which is its from then on."""
        self = cls.__new__(cls)
        IOMemoryDescriptor.__init__(self, options.direction)
        self._backing = backing
        self._task = task
        self._options = options
        self._capacity = self._length = self._record.length = capacity
        self._alignment = alignment
        self._asked_alignment = asked_alignment
        self._maps = MapTable()
        self._views = ViewTable()
        window = self._window = BusWindow(backing.reached, capacity, place)
        self._record.pool = backing.pool
        self._resources = BufferResources(
            backing, window, self._preparations, os.getpid(), self._record
        )
        self._prepare_itself()
        self._finalizer = weakref.finalize(self, reclaim, self._resources)
        self._finalizer.atexit = False
        return self

    def _prepare_itself(self) -> None:
        if kIOMemoryPageable not in self._options or kIOMemoryAutoPrepare in self._options:
            self._acquire(self._direction, _NO_FLAGS, grant=True)
            self._own_preparations = 1

    # The end.

    def release(self) -> None:
        """Free the buffer and the descriptor's hold on it.

        When it returns no device has rights by this descriptor. A buffer that was made in another
        task belongs to that task from then on, which decides what devices may do with it.

        `IOBusyError`, and nothing done, while a view or a mapping lives, a preparation is open, or
        a DMA may be active; the error says which. `IONotAttachedError` the second time. An error of
        a withdrawal is raised: devices may have rights still, and the call can be made again.
        """
        deferred.run_pending()  # so that no mapping outlives the memory
        with self._lock:
            backing = self._attached()
            busy = self._what_holds()
            if busy:
                raise self._busy(busy)
            self._check_idle("release()")
            try:
                backing.check_unused()
            except BufferError as error:
                raise self._busy(str(error)) from error
            self._give_back(backing)
            self._forget()
            if self._own_preparations and not self._record.prepared:
                coverage.ended(self._record, device_may(self._direction))

    def _give_back(self, backing: Backing) -> None:
        """Free the memory. Another owner may get it at once, so devices lose it before."""
        self._resources.withdraw()
        if self._resources.remote is not None:
            self._resources.remote.close()
        deferred.close_or_defer(backing.close)

    def _forget(self) -> None:
        """Take note that the memory is given back."""
        self._finalizer.detach()
        self._backing = None
        self._record.release()

    def _what_holds(self) -> str:
        """Name the holders of the memory, "" for none. An error must not hold it itself."""
        views = self._views.alive()
        if views:
            return views
        maps = self._maps.live()
        if maps:
            said = "; ".join(map(repr, maps[:_SHOWN_MAX]))
            more = f"; and {len(maps) - _SHOWN_MAX} more" if len(maps) > _SHOWN_MAX else ""
            return f"{len(maps)} mapping(s) of it live: {said}{more}; unmap them first"
        open_ones = len(self._preparations) - self._own_preparations
        if open_ones > 0:
            lines = self._preparations.lines(self._own_preparations)
            more = f" and {len(lines) - _SHOWN_MAX} more" if len(lines) > _SHOWN_MAX else ""
            return (
                f"{open_ones} prepare() without complete(), at "
                f"{', '.join(lines[:_SHOWN_MAX])}{more}"
            )
        return ""

    # Its bytes.

    def view(self) -> memoryview:
        """Return the buffer's `getLength` bytes as a writable memoryview, without a copy.

        The view keeps the descriptor alive, and the descriptor cannot be released before it.
        `IONotReadyError` when the buffer is another task's: create a mapping.
        """
        with self._lock:
            return self._views.view(self, self._attached(), self._length)

    def footprint(self) -> memoryview:
        """Return all bytes that belong to this buffer alone: `view`'s, and on to the block's end.

        Padding to whole cache lines or pages follows the `getLength` bytes; tests put canaries
        there. The same rules as for `view`.
        """
        with self._lock:
            backing = self._attached()
            return self._views.view(self, backing, backing.size)

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on (PEP 688)."""
        return self.view()

    def getBytesNoCopy(self, start: int = 0, withLength: int | None = None) -> memoryview | None:
        """Return a view of a part, the whole by default; None when it is not within the length."""
        with self._lock:
            length = self.getLength()
            end = length if withLength is None else start + withLength
            if not 0 <= start < length or not start <= end <= length:
                return None
            return self._views.view(self, self._attached(), length)[start:end]

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; nothing, not a part, when the range passes the length.

        `IONotReadyError` for memory that is not prepared, if ``strict``.
        """
        with self._lock:
            self._check_wired("readBytes")
            return super().readBytes(offset, length)

    def writeBytes(self, offset: int, data: Data | None, length: int | None = None) -> int:
        """Store ``data`` (None: ``length`` zeros) and return how many bytes were stored.

        0, and nothing is stored, when the range passes the length; if ``strict``, also while the
        memory is prepared for Out alone, as wired memory for Out always is. `IONotReadyError` for
        memory that is not prepared, if ``strict``.
        """
        with self._lock:
            self._check_wired("writeBytes")
            if self.strict and self._preparations.read_only:
                return 0
            return super().writeBytes(offset, data, length)

    def _check_wired(self, what: str) -> None:
        self._check_attached()
        if self.strict and not self._preparations:
            raise IONotReadyError(
                f"{what}() of {self!r}: the memory is not prepared, and IOKit panics then; "
                "prepare() it, or use a view or a mapping"
            )

    def appendBytes(
        self, data: bytes | bytearray | memoryview, withLength: int | None = None
    ) -> int:
        """Store bytes behind the length, as many as the capacity has room for, and count them in.

        Return how many were stored.
        """
        with self._lock:
            self._check_attached()
            data = bytes(data)  # lengths are bytes, also of a view with wider items
            count = len(data) if withLength is None else min(withLength, len(data))
            count = max(0, min(count, self._capacity - self._length))
            self._write(self._length, data[:count])
            self._length += count
            return count

    def __len__(self) -> int:
        return self.getLength()

    def getCapacity(self) -> int:
        """Return the bytes asked for."""
        self._check_attached()
        return self._capacity

    def getLength(self) -> int:
        """Return the length in bytes: the capacity, until `setLength` says something else."""
        self._check_attached()
        return self._length

    def setLength(self, length: int) -> None:
        """Set the length, 0 to the capacity; `IOBadArgumentError` above."""
        with self._lock:
            self._check_attached()
            if not 0 <= length <= self._capacity:
                raise IOBadArgumentError(
                    f"length {length}: 0 to the capacity, {self._capacity}", length=length
                )
            self._length = length

    # Its properties.

    def setDirection(self, direction: IODirection | IOOptions | int) -> None:
        """Change what devices may do with the memory.

        When it returns devices may do that, and nothing else; IOKit only notes it for the next
        prepare(). `IOBusyError` while a preparation is open (but the buffer's own), or a DMA
        may be active. An error of a withdrawal, or of the task that the buffer was made in, is
        raised, and leaves the direction as it was.
        """
        with self._lock:
            self._check_attached()
            new = as_direction(int(direction))
            if len(self._preparations) > self._own_preparations:
                raise self._busy("prepared for its direction; complete() first")
            self._check_idle("setDirection()")
            old, other = self._direction, self._resources.remote
            try:
                if other is not None:
                    other.set_direction(new)
                self._turn(old, new)
            except BaseException:
                if other is not None:
                    other.set_direction(old, wait=False)
                raise

    def _turn(self, old: IODirection, new: IODirection) -> None:
        if not self._own_preparations:
            self._direction = self._record.direction = new
            return
        self._preparations.remove(self._preparations.newest(None, 0))
        try:
            self._resources.end_track()  # caches know one direction of a mapping
            self._direction = self._record.direction = new
            self._acquire(new, _NO_FLAGS, grant=True)
        except BaseException as error:
            self._direction = self._record.direction = old
            undo(error, lambda: self._acquire(old, _NO_FLAGS, grant=True))
            raise

    def getOptions(self) -> IOOptions:
        """Return the options as they were given."""
        self._check_attached()
        return self._options

    def setPurgeable(self, newState: int) -> PurgeableState:
        """Set the purgeable state, and return the old one; Empty when the kernel purged it.

        `IOBadArgumentError` for an unknown state, and without kIOMemoryPurgeable;
        `IOBusyError` while the memory is wired, that is prepared, or mapped in kernel_task.
        """
        with self._lock:
            backing = self._attached()
            try:
                state = PurgeableState(newState)
            except ValueError:
                raise IOBadArgumentError(f"purgeable state {newState!r}: 1 to 4") from None
            if backing.purgeable is None:
                raise IOBadArgumentError(f"{self!r}: not made with kIOMemoryPurgeable")
            if state is not PurgeableState.kIOMemoryPurgeableKeepCurrent:
                if self._preparations:
                    raise self._busy("wired memory cannot be purged; complete() first")
                in_kernel = [each for each in self._maps.live() if each.getAddressTask().is_kernel]
                if in_kernel:
                    raise self._busy(f"{in_kernel[0]!r} keeps its pages in place; unmap it first")
            return backing.purgeable.set(state)

    @property
    def task(self) -> Task:
        """The task that the buffer was made in."""
        return self._task

    @property
    def backing(self) -> Backing:
        """The memory behind it; for the modules of this package and for tests."""
        return self._attached()

    @property
    def kernel_map(self) -> KernelMap | None:
        """The mapping that the kernel keeps (KernelUserShared, kernel_task), None without one."""
        return self._attached().kernel_map

    @property
    def address(self) -> int:
        """The virtual address of the first byte in this process, 0 when it is not mapped."""
        return self._attached().address

    @property
    def alignment(self) -> int:
        """The alignment promised, in bytes: the one asked for, or a page where IOKit raises it."""
        return self._alignment

    @property
    def cache_mode(self) -> CacheMode:
        """The mode of the mapping; never DEFAULT, but the mode that DEFAULT means here."""
        return self._attached().mode

    @property
    def pool(self) -> str:
        """The name of the pool that the memory is from."""
        return self._resources.backing.pool

    @property
    def released(self) -> bool:
        """Whether `release` has been done."""
        return self._backing is None

    def __repr__(self) -> str:
        backing = self._backing
        if os.getpid() != self._resources.pid:
            state = f"of process {self._resources.pid}"
        elif backing is None:
            state = "released"
        else:
            where = f"mapped at {backing.address:#x}" if backing.address else "not mapped here"
            state = f"{backing.mode.name}, {where}, {self._on_the_bus()}"
        length = "" if self._length == self._capacity else f", length {self._length}"
        return (
            f"<IOBufferMemoryDescriptor {self._capacity} bytes{length} in pool {self.pool} for "
            f"{self._task}, {self._options}, alignment {self._asked_alignment}, {state}, "
            f"made at {self.made_at}>"
        )

    def _on_the_bus(self) -> str:
        try:
            (address, length), *more = self._wired(0, self._capacity)
        except IONotReadyError:
            return "not prepared"
        rest = f" and {len(more)} further segments" if more else ""
        return f"{length} bytes at bus {address:#x}{rest}, prepared {len(self._preparations)} times"

    # For IOMemoryDescriptor.

    def _check_attached(self) -> None:
        if self._backing is None:
            raise IONotAttachedError(f"{self!r} is used after its release")
        if os.getpid() != self._resources.pid:
            raise IONotAttachedError(
                f"{self!r} is not mapped here: a fork does not inherit buffers"
            )

    def _attached(self) -> Backing:
        self._check_attached()
        backing = self._backing
        if backing is None:
            raise IONotAttachedError(f"{self!r} is used after its release")
        return backing

    def _wire(self, direction: IODirection) -> None:
        backing = self._attached()
        if backing.purgeable is not None and not backing.purgeable.usable:
            raise IONotReadyError(
                f"{self!r}: volatile, or emptied; setPurgeable(NonVolatile) first"
            )
        backing.wire()
        try:
            if kIOMemoryKernelUserShared in self._options:
                backing.make_kernel_map()
            self._open_window(direction, backing.segments(0, self._capacity))
            self._track()
        except BaseException as error:
            undo(error, self._unwire)
            raise

    def _unwire(self) -> None:
        if self._backing is None:
            return
        if self._preparations:
            self._narrow_window(self._backing.segments(0, self._capacity))
            return
        self._resources.end_track()
        self._resources.window.close()
        self._backing.unwire()

    def _track(self) -> None:
        """Have the caches maintained from now on: the memory is mapped, and stays in its place."""
        if self._resources.untrack is None:
            self._resources.untrack = dma_platform.coherence.track(self)

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        backing, window = self._attached(), self._resources.window
        if window.translated:
            return clipped(window.segments(), offset, length)
        return backing.segments(offset, length)

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        return self._attached().segments(offset, length)

    def _map(self, request: MapRequest) -> IOMemoryMap:
        return self._maps.make(self, request)

    def _pages(self) -> Iterator[Segment]:
        yield self._attached().address % PAGE, self._length

    def _extent(self) -> int:
        return self._capacity

    def _mappable(self) -> int:
        return self._length if self.strict else self._capacity

    def _read(self, offset: int, length: int) -> bytes:
        return self._attached().read(offset, length)

    def _write(self, offset: int, data: bytes) -> None:
        self._attached().write(offset, data)
