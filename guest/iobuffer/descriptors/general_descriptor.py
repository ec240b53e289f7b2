# SPDX-License-Identifier: Apache-2.0
"""IOGeneralMemoryDescriptor: memory of this process that exists already, by its addresses.

The memory stays its owner's; keep it mapped until the descriptor is released. `prepare` pins
its pages, through `Platform.pinner` or the kernel module, and has the IOMMU map them.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, Self

from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.coherence import nothing
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IONotAttachedError,
    IONotReadyError,
    IOUnsupportedError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions
from dma_rehearsal.guest.iobuffer.base.interfaces import Pinned, Pinner
from dma_rehearsal.guest.iobuffer.base.options import CACHE_SHIFT, CacheMode, IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.provenance import Record
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.descriptors.derived import DerivedMemoryDescriptor, clipped
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusWindow
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    MapRequest,
    as_direction,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.multi_descriptor import (
    IOMultiMemoryDescriptor,
    guard_length,
)
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Preparations, device_may
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os import user_memory
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Window, reserve

_ADDRESS_LIMIT: Final = 1 << 47
_ANYWHERE: Final = MapOptions.kIOMapAnywhere
# With one of these options, the existing mapping does not answer the request.
_ELSEWHERE: Final = (
    MapOptions.kIOMapReadOnly
    | MapOptions.kIOMapUnique
    | MapOptions.kIOMapGuardedSmall
    | MapOptions.kIOMapGuardedLarge
)


def _pin(address: int, length: int, *, write: bool) -> Pinned:
    pinner: Pinner = (
        dma_platform.open_driver() if dma_platform.pinner is None else dma_platform.pinner
    )
    return pinner.pin(address, length, write=write)


@dataclass(slots=True)
class _Wired:
    """The pin that keeps prepared memory in its place, and those who were told of it."""

    preparations: Preparations
    window: BusWindow
    record: Record
    pid: int
    pinned: Pinned | None = None
    untrack: Callable[[], None] = nothing

    def end(self) -> None:
        """Let the pages go; no device may reach them by then.

        A call after an error goes on where it failed.
        """
        self.preparations.withdraw()
        self.window.close()
        self.unpin()

    def unpin(self) -> None:
        """Let the pages go."""
        self.untrack()
        self.untrack = nothing
        if self.pinned is not None:
            self.pinned.close()
            self.pinned = None


def _dropped(wired: _Wired) -> None:
    """End the preparation of a descriptor that was dropped."""
    if os.getpid() != wired.pid or wired.pinned is None:
        return
    deferred.finalize(wired.end, str(wired.record))
    wired.record.drop()
    warnings.warn(f"{wired.record} is prepared, and was not released", ResourceWarning, 2)


class IOGeneralMemoryDescriptor(DerivedMemoryDescriptor):
    """``length`` bytes at ``address`` of this process. Made by `withAddressRange`."""

    def __init__(self, address: int, length: int, direction: IODirection, task: Task) -> None:
        """Arguments that the factories have checked."""
        super().__init__(direction)
        self._address = address
        self._length = self._record.length = length
        self._task = task
        self._wires = 0
        self._segments: list[Segment] = []
        self._window: BusWindow = BusWindow(lambda: nullcontext(address), length)
        self._held = _Wired(self._preparations, self._window, self._record, os.getpid())
        weakref.finalize(self, _dropped, self._held).atexit = False

    @classmethod
    def withAddressRange(
        cls, address: int, length: int, direction: int | IOOptions, task: Task
    ) -> Self:
        """Return the memory at ``address``; whether it is mapped is seen when it is used.

        `IOBadArgumentError` for a range outside the user addresses; `IOUnsupportedError` for
        another task's.
        """
        if not isinstance(task, Task):
            raise IOBadArgumentError(f"task must be a Task, not {task!r}")
        for value in address, length:
            if isinstance(value, bool) or not isinstance(value, int):
                raise IOBadArgumentError(f"{value!r}: addresses and lengths are ints")
        if address <= 0 or length < 0 or address + length > _ADDRESS_LIMIT:
            raise IOBadArgumentError(
                f"{length} bytes at {address:#x} are not within the addresses of a process",
                address=address,
                length=length,
            )
        if not task.is_current:
            raise IOUnsupportedError(f"memory of {task}: this process can pin only its own")
        return cls(address, length, as_direction(int(direction)), task)

    @classmethod
    def withRanges(
        cls, ranges: Sequence[tuple[int, int]], direction: int | IOOptions, task: Task
    ) -> IOMemoryDescriptor:
        """Return the (address, length) ranges as one memory, in their order; errors as above."""
        if not ranges:
            raise IOBadArgumentError("no ranges: at least one")
        parts = [cls.withAddressRange(at, length, direction, task) for at, length in ranges]
        if len(parts) == 1:
            return parts[0]
        return IOMultiMemoryDescriptor.withDescriptors(parts, direction)

    withAddressRanges = withRanges

    def getLength(self) -> int:
        """Return the length in bytes."""
        self._check_attached()
        return self._length

    def _wire(self, direction: IODirection) -> None:
        # Of nested ones the first says whether devices may write: In after Out is refused.
        if not self._wires and self._length:
            write = bool(device_may(direction) & IODirection.kIODirectionIn)
            pinned = _pin(self._address, self._length, write=write)
            try:
                self._segments = list(pinned.segments())
                self._held.untrack = dma_platform.coherence.track_existing(
                    self, self._address, self._length
                )
            except BaseException:
                self._segments = []
                pinned.close()
                raise
            self._held.pinned = pinned
        self._wires += 1
        if self._length:
            try:
                self._open_window(direction, iter(self._segments))
            except BaseException as error:
                undo(error, self._unwire)
                raise

    def _unwire(self) -> None:
        if self._held.pinned is not None:
            self._narrow_window(iter(self._segments))
        if self._held.pinned is not None and self._wires == 1:
            self._held.unpin()
            self._segments = []
        self._wires -= 1

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        if length and self._held.pinned is None:
            raise IONotReadyError(f"{self!r} has no bus address before its prepare()")
        if length and self._window.translated:
            return clipped(self._window.segments(), offset, length)
        return clipped(iter(self._segments), offset, length)

    def _physical(self, offset: int, length: int) -> Iterator[Segment]:
        if length and self._held.pinned is None:
            raise IONotReadyError(f"{self!r} has no physical address before its prepare()")
        return clipped(iter(self._segments), offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        return user_memory.read(self._address + offset, length)

    def _write(self, offset: int, data: bytes) -> None:
        user_memory.write(self._address + offset, data)

    def _pages(self) -> Iterator[Segment]:
        if self._length:
            yield self._address % PAGE, self._length

    def _map(self, request: MapRequest) -> IOMemoryMap:
        if not request.task.is_current:
            raise IOUnsupportedError(f"{self!r} is mapped in this process, not in {request.task}")
        if request.cache and request.cache >> CACHE_SHIFT != CacheMode.COPYBACK:
            raise IOBusyError(
                f"{self!r} is mapped already, with its own cache mode: "
                f"not with {CacheMode(request.cache >> CACHE_SHIFT).name} as well"
            )
        source = self._address + request.offset
        if (
            request.offset == 0
            and request.within is None
            and (_ANYWHERE in request.options and not request.options & _ELSEWHERE)
        ):
            window = Window(source, request.length)
            return self._made(request, source, CacheMode.COPYBACK, window, window.check_unused)
        return self._mapped_again(request, source)

    def _mapped_again(self, request: MapRequest, source: int) -> IOMemoryMap:
        if request.options & MapOptions.kIOMemoryMapCopyOnWrite:
            raise IOUnsupportedError(f"{self!r}: a copy-on-write mapping of existing memory")
        if request.options & MapOptions.kIOMapReference:
            raise IONotAttachedError("kIOMapReference: this part is not mapped yet")
        start, length = user_memory.whole_pages(source, request.length)
        skip = source - start
        address, unmap_pages = request.address, _nothing
        if request.within is None:
            guard = guard_length(request.options)
            first = 0 if _ANYWHERE in request.options else address - skip - guard
            reservation = reserve(length + 2 * guard, first)
            address, unmap_pages = reservation.address + guard + skip, reservation.close
        read_only = MapOptions.kIOMapReadOnly in request.options
        try:
            user_memory.map_again(start, length, address - skip, read_only=read_only)
        except BaseException:
            unmap_pages()
            raise
        window = Window(address, request.length)

        def unmap() -> None:
            window.check_unused()
            unmap_pages()

        return self._made(request, address, CacheMode.COPYBACK, window, unmap)

    def __repr__(self) -> str:
        return (
            f"<IOGeneralMemoryDescriptor {self._length} bytes at {self._address:#x} of "
            f"{self._task}, {self._direction.name}, {self._state()}, made at {self.made_at}>"
        )


def _nothing() -> None:
    """Unmap nothing: the reservation unmaps its contents."""
