# SPDX-License-Identifier: Apache-2.0
"""The memory behind one buffer: its bytes, its place on the bus, and how others get at it.

Its kinds: `heap_pool.HeapBacking`, a block of this process's own carve-out memory;
`claim_backing.ClaimBacking`, pages of a carve-out that other processes, or the kernel, have as
well; `pinnable_backing.PinnableBacking`, memory that the kernel manages, wired by pinning it.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.errors import IONotReadyError, IOUnsupportedError
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.purgeable import Purgeable
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement

# A fork would keep these: a lock, a pin, or a kernel mapping lasts until the last copy of its
# descriptor is closed.
_with_descriptors: Final[weakref.WeakSet[Backing]] = weakref.WeakSet()
_lent: Final[weakref.WeakSet[KernelMap]] = weakref.WeakSet()

CARVE_OUT: Final = "carve-out"
FILE: Final = "file"


@dataclass(frozen=True, slots=True)
class Share:
    """A memory for another process to map: its numbers, and the descriptors to pass."""

    kind: str
    pool: str
    address: int
    size: int
    mode: CacheMode
    fds: tuple[int, ...]


class Backing(ABC):
    """The memory of one buffer. ``size`` is in bytes, and all of it is the buffer's alone."""

    pool: str
    size: int
    mode: CacheMode
    mapping: Mapping | None = None  # the one that the buffer was made with
    kernel_map: KernelMap | None = None  # the buffer's own, for as long as it has its place
    purgeable: Purgeable | None = None
    _skip = 0  # where the buffer begins in its mapping

    @property
    def address(self) -> int:
        """The virtual address in this process, 0 when it is not mapped."""
        return 0 if self.mapping is None else self.mapping.address + self._skip

    def export(self) -> Any:
        """Return all bytes as a ctypes array; while that lives, `close` raises BufferError."""
        if self.mapping is None:
            raise IONotReadyError("the buffer is not mapped in this process: create a mapping")
        return self.mapping.export(self._skip, self.size)

    @contextmanager
    def reached(self) -> Iterator[int]:
        """Have it mapped in this process; yield where."""
        if self.mapping is not None:
            yield self.address
            return
        mapping, skip = self.map(0, self.size, self.mode)
        try:
            yield mapping.address + skip
        finally:
            mapping.close()

    @abstractmethod
    def wire(self) -> None:
        """Keep the memory in place: once, until `unwire`."""

    @abstractmethod
    def unwire(self) -> None:
        """Let go of the place."""

    @abstractmethod
    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield bus segments; `IONotReadyError` when the memory is not wired."""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, whether they are mapped here or not."""
        if self.mapping is not None:
            return self.mapping.read(self._skip + offset, length)
        return self._read_unmapped(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes, whether they are mapped here or not."""
        if self.mapping is not None:
            self.mapping.write(self._skip + offset, data)
        else:
            self._write_unmapped(offset, data)

    def _read_unmapped(self, offset: int, length: int) -> bytes:
        return self.make_kernel_map().read(offset, length)

    def _write_unmapped(self, offset: int, data: bytes) -> None:
        self.make_kernel_map().write(offset, data)

    def make_kernel_map(self) -> KernelMap:
        """Have the kernel map all of it, once, for the buffer itself: see ``kernel_map``.

        It lasts until `unwire`, or to the end where the place does. `IONotReadyError` while the
        memory has no place; `IODeviceError`.
        """
        if self.kernel_map is None:
            self.kernel_map = self._mapped_by_kernel()
        return self.kernel_map

    def lend_kernel_map(self) -> tuple[KernelMap, Callable[[], None]]:
        """Have the kernel map all of it for another user; return the mapping, and its end.

        It is the caller's, whatever becomes of the buffer's own and of the place: it keeps pinned
        pages pinned. Errors as for `make_kernel_map`.
        """
        window = self._mapped_by_kernel()
        _lent.add(window)
        return window, window.close

    @abstractmethod
    def _mapped_by_kernel(self) -> KernelMap:
        """Return a new mapping of all of it by the kernel."""

    @abstractmethod
    def map(
        self, offset: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map the pages of a part once more; return the mapping, and the part's offset in it."""

    def share(self) -> Share:
        """Return the memory's description for another process; the descriptors stay ours."""
        raise IOUnsupportedError(
            f"pool {self.pool}: this memory is this process's alone; make the buffer with "
            "kIOMemoryKernelUserShared, or in the other task"
        )

    def check_unused(self) -> None:
        """Raise BufferError while an export of the buffer's own mapping lives."""
        if self.mapping is not None:
            self.mapping.check_unused()

    def close(self) -> None:
        """Give the memory back; BufferError, and nothing done, while an export lives."""
        raise NotImplementedError

    @abstractmethod
    def forsake(self) -> None:
        """Let go of the descriptors that keep the memory: in a forked child."""

    def close_late(self) -> None:
        """Give it back from a finalizer, as soon as no export lives."""
        deferred.close_or_defer(self.close)


def forsaken_after_fork(backing: Backing) -> None:
    """Have a forked child `forsake` this memory."""
    _with_descriptors.add(backing)


def after_fork_in_child() -> None:
    """Let go of the parent's memory: a child that lives on must not keep it from others."""
    for backing in list(_with_descriptors):
        backing.forsake()
    for window in list(_lent):
        window.close()
