# SPDX-License-Identifier: Apache-2.0
"""Cache maintenance by the platform's cache model, for `Platform.coherence` of the allocator.

The model then plays a board whose devices do not snoop: every buffer is tracked from when it is
mapped and wired until its release, and the front end's syncs are the model's commands.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

from dma_rehearsal.guest.drivers.platform.buffer_names import BufferNames
from dma_rehearsal.guest.drivers.platform.cache_unit import (
    CacheDirection,
    CacheError,
    CacheStatus,
    CacheUnit,
)
from dma_rehearsal.guest.drivers.platform.command import PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.errors import as_return
from dma_rehearsal.guest.iobuffer import (
    IOBusyError,
    IODeviceError,
    IODirection,
    IOReturn,
)
from dma_rehearsal.guest.iobuffer.base.interfaces import BufferDescriptor, Descriptor
from dma_rehearsal.guest.iobuffer.os.driver import PageTableEntry

_PROCESSES: Final = 1 << 15  # that are told apart; tags from 1 << 31 on are a kernel driver's
_TAGS: Final = 1 << 16  # of each process
_TRIES: Final = 64


class _Driver(Protocol):
    def query(self, address: int) -> PageTableEntry:
        """See `iobuffer.driver.Driver.query`."""


class PlatformCoherence:
    """A `Coherence` for the allocator. ``line`` is that of the model's configuration, in bytes.

    A buffer that is not mapped in this process, of `kernel_task` or of another task, is tracked
    through a mapping of the kernel's; its owner tracks it, and nobody who maps it besides. One
    above 2 MiB is refused. Its direction is that of the moment.
    Memory that a process has anyhow is tracked while it is prepared. A failure to untrack is an
    error, and stays tracked: `platform_errors.as_return`'s. A forked child has nothing tracked.
    """

    def __init__(self, unit: CacheUnit, driver: _Driver) -> None:
        self._unit, self._driver = unit, driver
        self._line = unit.line
        self._tags: dict[int, int] = {}  # by the buffer's id(): it lives as long as its entry
        self._buffers: dict[int, str] = {}
        self._names = BufferNames()
        self._shared: dict[int, str] = {}  # by id(): memory that shares lines with other data
        self._next = 0
        self._pid = os.getpid()

    @property
    def line(self) -> int:
        """Bytes of a cache line."""
        return self._line

    def name_of(self, tag: int) -> str:
        """Return the name of the buffer with this tag, of any process, even after its release.

        For a buffer that was tracked in another way it returns the tag itself.
        """
        return self._buffers.get(tag) or self._names.find(tag) or f"buffer {tag:#x}"

    def tag_of(self, buffer: Descriptor) -> int:
        """Return a tracked buffer's tag; `IODeviceError` for memory that is not tracked."""
        try:
            return self._tags[id(buffer)]
        except KeyError:
            shared = self._shared.get(id(buffer))
            if shared is not None:
                raise IODeviceError(
                    f"{buffer!r}: {shared}", code=IOReturn.kIOReturnNotAligned
                ) from None
            raise IODeviceError(
                f"{buffer!r}: not tracked by the cache model; it tracks memory that is mapped and "
                "wired in this process, and was since the model is on",
                code=IOReturn.kIOReturnNotReady,
            ) from None

    def track(self, buffer: BufferDescriptor) -> Callable[[], None]:
        """Track a buffer; return the function that ends that."""
        if buffer.address:
            entry = self._driver.query(buffer.address)
            root, va, levels = entry.root, buffer.address, entry.levels
        else:
            window = buffer.backing.make_kernel_map()
            root, va, levels = window.root, window.address, window.levels
        return self._tracked(buffer, root, va, buffer.getCapacity(), levels)

    def track_existing(self, memory: Descriptor, address: int, length: int) -> Callable[[], None]:
        """Track memory that this process already has; return the function that ends that.

        Partial cache lines at its edges are not tracked, and a sync of such a part is
        refused: it would write back and discard the process's other bytes in that line.
        """
        self._begin_process()
        if address % self._line or length % self._line:
            key = id(memory)
            self._shared[key] = (
                f"it begins or ends within a cache line of {self._line} bytes that it shares with "
                "other memory of this process, which a sync would write back and discard; give it "
                "lines of its own"
            )
            return lambda: self._forget(key)
        entry = self._driver.query(address)
        return self._tracked(memory, entry.root, address, length, entry.levels)

    def _forget(self, key: int) -> None:
        self._shared.pop(key, None)

    def _tracked(
        self, memory: Descriptor, root: int, va: int, length: int, levels: int
    ) -> Callable[[], None]:
        self._begin_process()
        direction = CacheDirection(int(memory.getDirection()) or CacheDirection.IN_OUT)
        tag = self._track(direction, root, va, length, levels)
        key = id(memory)
        self._tags[key] = tag
        self._buffers[tag] = repr(memory)
        self._names.tell(tag, self._buffers[tag])
        pid = self._pid

        def end() -> None:
            if os.getpid() != pid:
                return  # a forked child: its parent's
            if self._tags.get(key) == tag:  # other objects may have that id() by now
                del self._tags[key]
            self._untrack(tag)

        return end

    def _track(
        self, direction: CacheDirection, root: int, va: int, length: int, levels: int
    ) -> int:
        for _ in range(_TRIES):
            tag = os.getpid() % _PROCESSES * _TAGS + self._next % _TAGS
            self._next += 1
            try:
                self._unit.track(tag, direction, root, va, length, levels)
            except CacheError as error:
                if error.status is CacheStatus.BAD_BUFFER:
                    continue  # an earlier process had that tag
                raise _failed(error, va, length) from error
            except PlatformDeviceError as error:
                raise as_return(error, address=va, length=length) from error
            return tag
        raise IODeviceError(f"{_TRIES} tags in a row are taken in the cache model")

    def _untrack(self, tag: int) -> None:
        try:
            self._unit.untrack(tag)
        except CacheError as error:
            if error.status is not CacheStatus.BAD_BUFFER:  # a reset has dropped it
                raise _failed(error) from error
        except PlatformDeviceError as error:
            raise as_return(error) from error

    def _begin_process(self) -> None:
        """Start with nothing in a forked process: its parent's tracks stay the parent's."""
        if self._pid != os.getpid():
            self._pid, self._next = os.getpid(), 0
            self._tags, self._shared = {}, {}

    def sync_for_device(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Clean, and remember the bytes that the device got."""
        self._do(self._unit.sync_for_device, memory, offset, length, int(direction))

    def sync_for_cpu(
        self, memory: Descriptor, offset: int, length: int, direction: IODirection
    ) -> None:
        """Compare with the bytes that the device got; invalidate, unless it has only read."""
        self._do(self._unit.sync_for_cpu, memory, offset, length, int(direction))

    def clean(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back."""
        self._do(self._unit.clean, memory, offset, length)

    def clean_and_invalidate(self, memory: Descriptor, offset: int, length: int) -> None:
        """Write back, then drop the lines."""
        self._do(self._unit.clean_and_invalidate, memory, offset, length)

    def completed(self, memory: Descriptor, offset: int, length: int) -> None:
        """The CPU owns the bytes again; it always owns untracked memory."""
        if id(memory) in self._tags:
            self._do(self._unit.complete, memory, offset, length)

    def _do(
        self,
        command: Callable[..., None],
        memory: Descriptor,
        offset: int,
        length: int,
        *direction: int,
    ) -> None:
        try:
            command(self.tag_of(memory), offset, length, *direction)
        except CacheError as error:
            raise _failed(error, length=length) from error
        except PlatformDeviceError as error:
            raise as_return(error, length=length) from error


def _failed(error: CacheError, address: int | None = None, length: int | None = None) -> Exception:
    kind = IOBusyError if error.status is CacheStatus.BUSY else IODeviceError
    return kind(str(error), address=error.address or address, length=length)
