# SPDX-License-Identifier: Apache-2.0
"""Named faults of the heap, applied from outside. Never a part of ``iobuffer`` itself.

Each breaks one promise and nothing else: the heap gets back just the blocks that it gave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.memory.heap import Block, Heap

_SHARED_MAX = 4096  # bytes; larger buffers stay apart, so that the device's staging still works

_allocate = Heap.allocate
_release = Heap.release
_release_late = Heap.release_late


class _Fault:
    """Replaces `Heap.allocate`, and says what goes back to the heap."""

    def allocate(
        self, heap: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
    ) -> Block:
        """Return a block that breaks a promise."""
        raise NotImplementedError

    def sound(self, block: Block) -> Block | None:
        """Return what the heap gets back for ``block``, None for nothing yet."""
        raise NotImplementedError

    def forget(self, block: Block) -> None:
        """Take note that ``block`` was given back."""
        raise NotImplementedError


class _Misaligned(_Fault):
    """Gives an address that is off its alignment by half of it."""

    def __init__(self) -> None:
        self._sound: dict[Block, Block] = {}

    def allocate(
        self, heap: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
    ) -> Block:
        block = _allocate(heap, capacity + alignment, alignment, mode, pages=pages)
        off = alignment // 2
        moved = replace(block, offset=block.offset + off, size=block.size - off)
        self._sound[moved] = block
        return moved

    def sound(self, block: Block) -> Block | None:
        return self._sound.get(block, block)

    def forget(self, block: Block) -> None:
        self._sound.pop(block, None)


class _Overlapping(_Fault):
    """Gives live buffers of a page or less the same memory."""

    def __init__(self) -> None:
        self._owners: dict[Block, int] = {}
        self._shared: dict[tuple[str, CacheMode], Block] = {}

    def allocate(
        self, heap: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
    ) -> Block:
        key = heap.pool.name, mode
        block = self._shared.get(key)
        if block is None or capacity > block.size or block.physical % alignment:
            block = _allocate(heap, capacity, alignment, mode, pages=pages)
            if capacity > _SHARED_MAX:
                return block
            self._shared[key] = block
        self._owners[block] = self._owners.get(block, 0) + 1
        return block

    def sound(self, block: Block) -> Block | None:
        return None if self._owners.get(block, 1) > 1 else block

    def forget(self, block: Block) -> None:
        left = self._owners.pop(block, 1) - 1
        if left:
            self._owners[block] = left
            return
        self._shared = {key: each for key, each in self._shared.items() if each is not block}


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "allocator-misaligned": lambda: _apply(_Misaligned),
    "allocator-overlap": lambda: _apply(_Overlapping),
}


def _apply(kind: type[_Fault]) -> None:
    fault = kind()

    def allocate(
        heap: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
    ) -> Block:
        return fault.allocate(heap, capacity, alignment, mode, pages=pages)

    def release(heap: Heap, block: Block) -> None:
        sound = fault.sound(block)
        if sound is not None:
            _release(heap, sound)  # BufferError while a view lives: then it was not given back
        fault.forget(block)

    def release_late(heap: Heap, block: Block) -> None:
        sound = fault.sound(block)
        if sound is not None:
            _release_late(heap, sound)
        fault.forget(block)

    for method in allocate, release, release_late:
        setattr(Heap, method.__name__, method)
