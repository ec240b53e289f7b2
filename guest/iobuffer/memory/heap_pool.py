# SPDX-License-Identifier: Apache-2.0
"""Pools of physically contiguous, wired memory: an `ExtentPool` and a heap on it."""

from __future__ import annotations

from collections.abc import Iterator

from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_up
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.claim_backing import ClaimBacking
from dma_rehearsal.guest.iobuffer.memory.heap import Block, Heap
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import ExtentPool, Request, whole_pages
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement


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
        self, offset: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map through the pool: another cache mode is refused there."""
        extent, skip = whole_pages(self._block.physical + offset, length)
        return self._heap.pool.map(extent, mode, placement), skip

    def _mapped_by_kernel(self) -> KernelMap:
        return dma_platform.open_driver().kernel_map(self._block.physical, self.size, self.mode)

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

    def forsake(self) -> None:
        """Do nothing: the pool lets go of its arenas."""

    def close_late(self) -> None:
        """Give the block back when the heap is next used."""
        self._heap.release_late(self._block)


class HeapPool:
    """Buffers of any size out of one `ExtentPool`. A `CarveoutPool` can share them, too."""

    def __init__(self, extents: ExtentPool) -> None:
        self.extents = extents
        self.heap = Heap(extents)

    @property
    def name(self) -> str:
        """The name of its `ExtentPool`."""
        return self.extents.name

    @property
    def size(self) -> int:
        """Bytes that it could ever give."""
        return self.extents.size

    def refuses(self, request: Request) -> str:
        """Refuse pageable memory, memory to share that cannot be shared, and addresses too high."""
        if request.pageable:
            return "its memory is always wired"
        if (request.shared or not request.mapped) and not isinstance(self.extents, CarveoutPool):
            return "its memory is this process's alone"
        if request.highest is not None:
            highest = self.extents.highest
            if highest is None:
                return "where its memory lies is not known beforehand"
            if highest > request.highest:
                return f"it ends at {highest:#x}, above {request.highest:#x}"
        return ""

    def take(self, request: Request) -> Backing:
        """Take a block of the heap, or pages with a claim of their own."""
        if isinstance(self.extents, CarveoutPool) and (request.shared or not request.mapped):
            size = align_up(request.capacity, PAGE)
            with self.heap.held():
                claim = self.extents.claim(size, max(request.alignment, PAGE))
            return ClaimBacking(
                self.extents, claim, request.mode, mapped=request.mapped, clean=True
            )
        block = self.heap.allocate(
            request.capacity, request.alignment, request.mode, pages=request.pages
        )
        return HeapBacking(self.heap, block)

    def free_size(self) -> int:
        """Bytes that this process could still get, in all."""
        return self.heap.free_size()

    def wake(self) -> None:
        """End the rest of all that was given back."""
        self.heap.wake()

    def after_fork_in_child(self) -> None:
        """Let go of the parent's locks, as far as this process is concerned."""
        if isinstance(self.extents, CarveoutPool):
            self.extents.close()
