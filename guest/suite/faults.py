"""Named faults of the allocator, put on from outside. Never a part of ``iobuffer`` itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from iobuffer.heap import Block, Heap
from iobuffer.options import CacheMode

_sound_allocate = Heap.allocate


def _misaligned(
    self: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
) -> Block:
    """Give an address that is a multiple of half the alignment that was asked for."""
    block = _sound_allocate(self, capacity + alignment, alignment, mode, pages=pages)
    return replace(block, offset=block.offset + alignment // 2)


def _overlapping(
    self: Heap, capacity: int, alignment: int, mode: CacheMode, *, pages: bool
) -> Block:
    """Give two buffers of a page or less the same memory."""
    shared: dict[tuple[str, CacheMode], Block] = self.__dict__.setdefault("_shared", {})
    key = (self.pool.name, mode)
    last = shared.get(key)
    if last is not None and capacity <= last.size and last.physical % alignment == 0:
        return last
    block = _sound_allocate(self, capacity, alignment, mode, pages=pages)
    if capacity <= 4096:
        shared[key] = block
    return block


FAULTS: dict[str, Callable[..., Block]] = {
    "allocator-misaligned": _misaligned,
    "allocator-overlap": _overlapping,
}


def apply(name: str) -> None:
    """Put a fault on for the rest of this process. ValueError for an unknown name."""
    if name not in FAULTS:
        raise ValueError(f"the guest has no fault {name!r}; it has {', '.join(sorted(FAULTS))}")
    Heap.allocate = FAULTS[name]  # type: ignore[method-assign]
