# SPDX-License-Identifier: Apache-2.0
"""What one buffer stands on: its bytes, its place on the bus, and how others get at it.

`HeapBacking`: a block of this process's own carve-out memory. `ClaimBacking`: pages of a carve-out
that other processes, or the kernel, have as well. `PinnableBacking`: memory that the kernel
manages, wired by pinning it.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IOCannotWireError,
    IONoMemoryError,
    IONotReadyError,
    IOUnsupportedError,
    of_the_system,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.memory import resting_pins
from dma_rehearsal.guest.iobuffer.memory.pool import PAGE, Extent, align_down, align_up
from dma_rehearsal.guest.iobuffer.os import kernel
from dma_rehearsal.guest.iobuffer.os.purgeable import Purgeable
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, Placement

if TYPE_CHECKING:
    from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool, Claim
    from dma_rehearsal.guest.iobuffer.memory.heap import Block, Heap
    from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin

Segment = tuple[int, int]

# What a fork would keep: a lock, a pin, or a kernel mapping, lasts until the last copy of its
# descriptor is closed.
_with_descriptors: Final[weakref.WeakSet[ClaimBacking | PinnableBacking]] = weakref.WeakSet()
_lent: Final[weakref.WeakSet[KernelMap]] = weakref.WeakSet()

CARVE_OUT: Final = "carve-out"
FILE: Final = "file"


@dataclass(frozen=True, slots=True)
class Share:
    """What another process needs to have the same memory: numbers, and descriptors to pass."""

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
        """Have the kernel map all of it for somebody else; return the mapping, and what ends it.

        It is the caller's, whatever becomes of the buffer's own and of the place: it keeps pinned
        pages pinned. Errors as `make_kernel_map`'s.
        """
        window = self._mapped_by_kernel()
        _lent.add(window)
        return window, window.close

    @abstractmethod
    def _mapped_by_kernel(self) -> KernelMap:
        """Return a new mapping of all of it by the kernel."""

    @abstractmethod
    def map(
        self, offset: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map the pages of a part once more; return the mapping, and the part's offset in it."""

    def share(self) -> Share:
        """Return what another process needs; the descriptors stay ours."""
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

    def close_late(self) -> None:
        """Give it back from a finalizer, as soon as no export lives."""
        deferred.close(self.close)


class HeapBacking(Backing):
    """A block out of a heap. It is always wired."""

    def __init__(self, heap: Heap, block: Block) -> None:
        self._heap, self._block = heap, block
        self.pool = heap.pool.name
        self.size = block.size
        self.mode = block.pages.mode
        self.mapping = block.pages.mapping
        self._skip = block.offset

    def wire(self) -> None:
        """Do nothing."""

    def unwire(self) -> None:
        """Do nothing."""

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the one segment."""
        yield self._block.physical + offset, length

    def map(
        self, offset: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map through the pool: another cache mode is refused there."""
        extent, skip = _whole_pages(self._block.physical + offset, length)
        return self._heap.pool.map(extent, mode, placement), skip

    def _mapped_by_kernel(self) -> KernelMap:
        return kernel.driver().kernel_map(self._block.physical, self.size, self.mode)

    def check_unused(self) -> None:
        """See `Backing`; a page that is cut into blocks is looked through by others as well."""
        if self._block.slab is None:
            super().check_unused()

    def close(self) -> None:
        """Give the block back to its heap."""
        if self.kernel_map is not None:
            self.kernel_map.close()
            self.kernel_map = None
        self._heap.release(self._block)

    def close_late(self) -> None:
        """Give the block back when the heap is next used."""
        self._heap.release_late(self._block)


class ClaimBacking(Backing):
    """Pages of a carve-out with an owner of their own: whoever holds the claim. Always wired."""

    def __init__(
        self, pool: CarveoutPool, claim: Claim, mode: CacheMode, *, mapped: bool, clean: bool
    ) -> None:
        """``clean``: fill with zeros, as a new buffer must be. The claim is ours even on errors."""
        self._pool, self._claim = pool, claim
        self.pool = pool.name
        self.size = claim.extent.length
        self.mode = mode
        _with_descriptors.add(self)
        try:
            if mapped:
                self.mapping = pool.map(claim.extent, mode)
                if clean:
                    self.mapping.zero(0, self.size)
            elif clean:
                with pool.kernel_map(claim.extent, mode) as window:
                    window.write(0, bytes(self.size))
        except BaseException:
            self.close()
            raise

    def wire(self) -> None:
        """Do nothing."""

    def unwire(self) -> None:
        """Do nothing."""

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the one segment."""
        yield self._claim.extent.address + offset, length

    def map(
        self, offset: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map through the pool: another cache mode is refused there."""
        extent, skip = _whole_pages(self._claim.extent.address + offset, length)
        return self._pool.map(extent, mode, placement), skip

    def lend_kernel_map(self) -> tuple[KernelMap, Callable[[], None]]:
        """Lend the buffer's own: it lasts as long as the claim, so nobody needs another one."""
        return self.make_kernel_map(), _nothing

    def _mapped_by_kernel(self) -> KernelMap:
        return self._pool.kernel_map(self._claim.extent, self.mode)

    def share(self) -> Share:
        """Pass the claim on."""
        extent = self._claim.extent
        return Share(
            CARVE_OUT, self.pool, extent.address, extent.length, self.mode, (self._claim.fd,)
        )

    def close(self) -> None:
        """Unmap, and let go of the claim."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        self.forsake()

    def forsake(self) -> None:
        """Let go of the claim, and of the kernel's mapping."""
        if self.kernel_map is not None:
            self.kernel_map.close()
            self.kernel_map = None
        self._claim.close()


class PinnableBacking(Backing):
    """Memory that the kernel manages: of a memfd, or private and anonymous (``fd`` -1).

    It can be paged out and moved until `wire` pins it. Only private memory can be purgeable, and
    only a memfd's can be had by others.
    """

    mode = CacheMode.COPYBACK

    def __init__(
        self,
        pool: str,
        fd: int,
        size: int,
        *,
        mapped: bool,
        purgeable: bool = False,
        highest: int | None = None,
    ) -> None:
        """``fd`` is ours, also on errors; ``size`` in bytes, whole pages.

        ``highest``: the last bus address that is good for it, None for any.
        """
        self.pool, self.size = pool, size
        self._highest = highest
        _with_descriptors.add(self)
        self._fd = fd
        self._pin: Pin | None = None
        self._places: list[Segment] = []
        self._pin_mapping: Mapping | None = None
        try:
            if mapped:
                self.mapping = self._mapped(size)
            if purgeable and self.mapping is not None:
                self.purgeable = Purgeable(self.mapping)
        except BaseException:
            self.close()
            raise

    @property
    def pinned(self) -> bool:
        """Whether the pages are kept in place."""
        return self._pin is not None

    def wire(self) -> None:
        """Pin every page; `IOCannotWireError` when that is refused.

        `IONoMemoryError` when the kernel has it above the highest address: where it lies cannot be
        asked for.
        """
        if self._pin is not None:
            return
        if self.mapping is None and self._pin_mapping is None:
            self._pin_mapping = self._mapped(self.size)
        mapping = self.mapping or self._pin_mapping
        address = mapping.address  # type: ignore[union-attr]
        try:
            pin = kernel.driver().pin(address, self.size)
        except IOCannotWireError:
            if not resting_pins.wake():
                raise
            pin = kernel.driver().pin(address, self.size)
        self._hold(pin)

    def adopt(self, pin: Pin) -> None:
        """Take over a pin of just this memory that another process made."""
        self._hold(pin)

    def unwire(self) -> None:
        """Let the pages move again."""
        if self.kernel_map is not None:
            self.kernel_map.close()
            self.kernel_map = None
        pin, self._pin, self._places = self._pin, None, []
        if pin is not None:
            pin.close()
        if self._pin_mapping is not None:
            self._pin_mapping.close()
            self._pin_mapping = None

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the pinned pages' runs."""
        if self._pin is None:
            raise IONotReadyError(
                "the memory is pageable and not prepared: it has no place on the bus; prepare() it"
            )
        end = offset + length
        start = 0
        for address, size in self._places:
            first, last = max(start, offset), min(start + size, end)
            if first < last:
                yield address + first - start, last - first
            start += size

    def _read_unmapped(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def _write_unmapped(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, offset)

    def map(
        self, offset: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map the file once more; there is one cache mode."""
        if mode is not self.mode:
            raise IOBusyError(
                f"pool {self.pool}: memory that the kernel manages is mapped {self.mode.name}, "
                f"not {mode.name}; other modes need a carve-out"
            )
        if self._fd < 0:
            raise IOUnsupportedError(
                f"pool {self.pool}: private memory (kIOMemoryPurgeable) has one mapping"
            )
        start = align_down(offset, PAGE)
        size = align_up(offset + length, PAGE) - start
        return self._mapped(size, start, placement), offset - start

    def _mapped_by_kernel(self) -> KernelMap:
        if self._pin is None:
            raise IONotReadyError("the kernel maps memory that is in its place: prepare() it")
        return self._pin.kernel_map()

    def share(self) -> Share:
        """Pass the memfd on, and the pin when there is one."""
        if self._fd < 0:
            return super().share()
        fds = (self._fd,) if self._pin is None else (self._fd, self._pin.fileno())
        return Share(FILE, self.pool, 0, self.size, self.mode, fds)

    def close(self) -> None:
        """Unmap, close, and let what is pinned rest."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        pin, self._pin = self._pin, None
        self.forsake()
        if pin is not None:
            resting_pins.rest(pin)

    def forsake(self) -> None:
        """Unpin, and close the file."""
        self.unwire()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _mapped(
        self,
        size: int,
        start: int = 0,
        placement: Placement = ANYWHERE,
    ) -> Mapping:
        try:
            return Mapping(self._fd, size, start, placement)
        except OSError as error:
            what = f"pool {self.pool}: mapping"
            raise of_the_system(what, error, length=size, address=placement.at) from error

    def _hold(self, pin: Pin) -> None:
        try:
            places = pin.segments()
            above = [
                address
                for address, length in places
                if self._highest is not None and address + length - 1 > self._highest
            ]
            if above:
                raise IONoMemoryError(
                    f"pool {self.pool}: the kernel has it at {above[0]:#x}, above "
                    f"{self._highest:#x}; wired memory of a carve-out can be asked for by address",
                    asked=self.size,
                    largest=0,
                )
        except BaseException:
            pin.close()
            raise
        self._pin, self._places = pin, places


def _whole_pages(address: int, length: int) -> tuple[Extent, int]:
    """Return the pages that hold a range, and where it begins in them."""
    start = align_down(address, PAGE)
    return Extent(start, align_up(address + length, PAGE) - start), address - start


def after_fork_in_child() -> None:
    """Let go of the parent's memory: a child that lives on must not keep it from others."""
    for backing in list(_with_descriptors):
        backing.forsake()
    for window in list(_lent):
        window.close()


def _nothing() -> None:
    """End nothing: the buffer's own mapping ends with the buffer."""
