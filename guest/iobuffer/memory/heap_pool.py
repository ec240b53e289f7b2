# SPDX-License-Identifier: Apache-2.0
"""Pools of physically contiguous, wired memory: an `ExtentPool` and a heap on it."""

from __future__ import annotations

from dma_rehearsal.guest.iobuffer.memory.backing import Backing, ClaimBacking, HeapBacking
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap import Heap
from dma_rehearsal.guest.iobuffer.memory.pool import PAGE, ExtentPool, Request, align_up


class HeapPool:
    """Buffers of any size out of one `ExtentPool`. A `CarveoutPool` can share them, too."""

    def __init__(self, extents: ExtentPool) -> None:
        self.extents = extents
        self.heap = Heap(extents)

    @property
    def name(self) -> str:
        """The name of what it stands on."""
        return self.extents.name

    @property
    def size(self) -> int:
        """Bytes that it could ever give."""
        return self.extents.size

    def refuses(self, request: Request) -> str:
        """Refuse what is not wired, what must be shared and cannot, and what lies too high."""
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
