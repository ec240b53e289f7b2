# SPDX-License-Identifier: Apache-2.0
"""IOBufferMemoryDescriptor: a buffer for DMA, and what was promised for it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from dma_rehearsal.guest.iobuffer.base import coherence, deferred
from dma_rehearsal.guest.iobuffer.base.blocking import check_may_block
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
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
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.descriptors.buffer_bytes import BufferBytes
from dma_rehearsal.guest.iobuffer.descriptors.buffer_resources import Held, reclaim
from dma_rehearsal.guest.iobuffer.descriptors.creation import (
    check_as_iokit,
    check_supported,
    check_values,
    default_alignment,
    make_place,
    make_request,
    warn_of_neighbours,
)
from dma_rehearsal.guest.iobuffer.descriptors.derived import clipped
from dma_rehearsal.guest.iobuffer.descriptors.factories import BufferFactories
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusWindow, Place
from dma_rehearsal.guest.iobuffer.descriptors.map_table import Mappings
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    MapRequest,
    Segment,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import device_may
from dma_rehearsal.guest.iobuffer.descriptors.remote import ask, no_handle
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.pool import PAGE
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap

_NO_FLAGS: Final = PrepareFlags(0)
_SHOWN_MAX: Final = 4  # holders in a message


class IOBufferMemoryDescriptor(BufferFactories, BufferBytes):
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
    """Whether what IOKit refuses is refused, although it can be done here; set in a subclass.

    docs/iobuffer.md lists what that is. `iobuffer.cxx` has it on.
    """

    _backing: Backing | None
    _held: Held
    _task: Task
    _options: IOOptions
    _alignment: int
    _asked_alignment: int
    _maps: Mappings
    _finalizer: weakref.finalize[..., Any]

    def __init__(self) -> None:
        raise TypeError("use IOBufferMemoryDescriptor.inTaskWithOptions()")

    # Creation.

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
            raise no_handle(task)
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

    def _make_in_task(self) -> None:
        """Have the task map the buffer, and take it over when we let go of it."""
        details = {
            "options": int(self._options),
            "capacity": self._capacity,
            "alignment": self._alignment,
        }
        try:
            self._held.remote = ask(self._task, "make", self._attached().share(), details)
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
        place: Place | None = None,
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
        self._maps = Mappings()
        self._exporter = None
        window = self._window = BusWindow(backing.reached, capacity, place)
        self._record.pool = backing.pool
        self._held = Held(backing, window, self._preparations, os.getpid(), self._record)
        self._prepare_itself()
        self._finalizer = weakref.finalize(self, reclaim, self._held)
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
        task is that task's from then on, who says what devices may do with it.

        `IOBusyError`, and nothing done, while a view or a mapping lives, a preparation is open, or
        a DMA may be active; it says which. `IONotAttachedError` the second time. What fails to
        withdraw raises: devices may have rights still, and the call can be made again.
        """
        self._release()

    def _release(self) -> None:
        deferred.catch_up()  # so that no mapping outlives the memory
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
        """Free the memory, which somebody else may have at once: so devices lose it before."""
        self._held.withdraw()
        if self._held.remote is not None:
            self._held.remote.close()
        deferred.close(backing.close)

    def _forget(self) -> None:
        """Take note that the memory is given back."""
        self._finalizer.detach()
        self._backing = None
        self._record.release()

    def _what_holds(self) -> str:
        """Say what holds the memory, "" for nothing. An error must not hold it itself."""
        views = self._what_views_live()
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

    def __enter__(self) -> Self:
        self._check_attached()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release, unless that is done. With an error on its way, its traceback holds the views.

        The memory then comes back when they are gone.
        """
        if self.released:
            return
        try:
            self._release()
        except IOBusyError:
            if error is None:
                raise

    # What it is.

    def setDirection(self, direction: IODirection | IOOptions | int) -> None:
        """Change who may do what from now on.

        When it returns devices may do what it says, and nothing else; IOKit notes it for the next
        prepare() alone. `IOBusyError` while a preparation is open (but the buffer's own), or a DMA
        may be active. What fails to withdraw, or to tell the task that the buffer was made in,
        raises, and leaves the direction as it was.
        """
        with self._lock:
            self._check_attached()
            new = as_direction(int(direction))
            if len(self._preparations) > self._own_preparations:
                raise self._busy("prepared for its direction; complete() first")
            self._check_idle("setDirection()")
            old, remote = self._direction, self._held.remote
            try:
                if remote is not None:
                    remote.set_direction(new)
                self._turn(old, new)
            except BaseException:
                if remote is not None:
                    remote.set_direction(old, wait=False)
                raise

    def _turn(self, old: IODirection, new: IODirection) -> None:
        if not self._own_preparations:
            self._direction = self._record.direction = new
            return
        self._preparations.remove(self._preparations.newest(None, 0))
        try:
            self._held.end_track()  # caches know one direction of a mapping
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

        `IOBadArgumentError` for a state that is none, and without kIOMemoryPurgeable;
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
        """What it stands on; for the modules of this package and for tests."""
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
        """The mode of the mapping; never DEFAULT, but what that stands for here."""
        return self._attached().mode

    @property
    def pool(self) -> str:
        """The name of the pool that the memory is from."""
        return self._held.backing.pool

    @property
    def released(self) -> bool:
        """Whether `release` has been done."""
        return self._backing is None

    def __repr__(self) -> str:
        backing = self._backing
        if os.getpid() != self._held.pid:
            state = f"of process {self._held.pid}"
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

    # What IOMemoryDescriptor wants to know.

    def _check_attached(self) -> None:
        if self._backing is None:
            raise IONotAttachedError(f"{self!r} is used after its release")
        if os.getpid() != self._held.pid:
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
        self._held.end_track()
        self._held.window.close()
        self._backing.unwire()

    def _track(self) -> None:
        """Have the caches maintained from now on: the memory is mapped, and stays in its place."""
        if self._held.untrack is None:
            self._held.untrack = coherence.backend().track(self)

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        backing, window = self._attached(), self._held.window
        if window.translated:
            return clipped(window.segments(), offset, length)
        return backing.segments(offset, length)

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        return self._attached().segments(offset, length)

    def _map(self, request: MapRequest) -> IOMemoryMap:
        return self._maps.make(self, request)

    def _pages(self) -> Iterator[Segment]:
        yield self._attached().address % PAGE, self._length
