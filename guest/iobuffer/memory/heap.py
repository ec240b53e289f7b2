# SPDX-License-Identifier: Apache-2.0
"""Buffers of any size out of pools that give whole pages.

A buffer of a page or more, or with a cache mode that was asked for, gets mapped pages of its own.
Smaller ones share pages, sorted by size: a page is cut into equal blocks whose size is a power of
two, at least a cache line, so each has its own lines, its alignment, and does not cross the page.
All blocks of a page have one cache mode, as the page has one entry. By a policy that packs
(`placement`) they lie side by side instead, each at the alignment that it asked for.

A block that is given back rests (`quarantine`), as pages do in their pool. A page of blocks that is
empty is kept, one of a kind, where that keeps nothing from other processes: else each small buffer
that comes and goes would map a page, and leave its other blocks to rest with it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IONoMemoryError, IONotPermittedError
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, RangeAllocator, align_up
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent, ExtentPool
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping

CACHE_LINE: Final = 64
_RESTING_BLOCKS_MAX: Final = 192
_RESTING_BYTES_MAX: Final = 256 << 10
_PACKED: Final = 0  # in place of the size of a page's blocks
_SLABS_TRIED: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Pages taken from a pool, and their mapping with ``mode``. Zeroed."""

    extent: Extent
    mapping: Mapping
    mode: CacheMode


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The memory of one buffer: ``size`` bytes from ``offset`` of its pages, for itself."""

    pages: Pages
    offset: int
    size: int
    slab: _Slab | None

    @property
    def address(self) -> int:
        """Virtual address."""
        return self.pages.mapping.address + self.offset

    @property
    def physical(self) -> int:
        """Bus address."""
        return self.pages.extent.address + self.offset


class _Slab(ABC):
    """One page that small blocks share; ``used`` of them are in use, others rest or are free.

    ``gone``: it was given back to the pool, with all its blocks.
    """

    __slots__ = ("gone", "key", "pages", "used")

    def __init__(self, pages: Pages, key: tuple[CacheMode, int]) -> None:
        self.pages, self.key = pages, key
        self.used = 0
        self.gone = False

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether it has no room for anything."""

    @abstractmethod
    def take(self, size: int, alignment: int) -> int | None:
        """Take bytes and return their offset in the page, None without room."""

    @abstractmethod
    def give(self, offset: int) -> None:
        """Take back the block at ``offset``."""


class _Cut(_Slab):
    """A page cut into blocks of one size."""

    __slots__ = ("_free",)

    def __init__(self, pages: Pages, key: tuple[CacheMode, int]) -> None:
        super().__init__(pages, key)
        self._free = list(range(PAGE - key[1], -1, -key[1]))  # the lowest is taken first

    @property
    def full(self) -> bool:
        return not self._free

    def take(self, size: int, alignment: int) -> int | None:  # noqa: ARG002
        return self._free.pop() if self._free else None

    def give(self, offset: int) -> None:
        self._free.append(offset)


class _Packed(_Slab):
    """A page in which blocks of any size lie side by side."""

    __slots__ = ("_ranges",)

    def __init__(self, pages: Pages, key: tuple[CacheMode, int]) -> None:
        super().__init__(pages, key)
        first = dma_platform.placement.first()
        self._ranges = RangeAllocator()
        self._ranges.add(first, PAGE - first)

    @property
    def full(self) -> bool:
        return not self._ranges.free_size

    def take(self, size: int, alignment: int) -> int | None:
        return self._ranges.allocate(size, alignment)

    def give(self, offset: int) -> None:
        self._ranges.free(offset)


class Heap:
    """Takes memory from one pool, for the threads of one process."""

    def __init__(self, pool: ExtentPool) -> None:
        self.pool = pool
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._within = 0  # the thread that has it
        # Those with room; the inner dict is an ordered set.
        self._slabs: dict[tuple[CacheMode, int], dict[_Slab, None]] = {}
        self._spares: dict[_Slab, None] = {}  # those kept empty: an ordered set
        self._late: deque[Block] = deque()  # given back by finalizers
        self._resting: deque[Block] = deque()  # the oldest first
        self._resting_size = 0

    def allocate(self, capacity: int, alignment: int, mode: CacheMode, *, pages: bool) -> Block:
        """Take zeroed memory for ``capacity`` bytes; ``pages`` = on pages of its own.

        `IONoMemoryError` when the pool has none; what the driver says when it cannot be mapped.
        """
        with self.held():
            self._take_late()
            policy = dma_platform.placement
            size = max(CACHE_LINE, alignment, 1 << (capacity - 1).bit_length())
            packed = align_up(capacity + 1, alignment)  # a byte too many is not the next one's
            if pages:
                pass
            elif policy.packs and align_up(policy.first(), alignment) + packed <= PAGE:
                return self._from_slab(_Packed, (mode, _PACKED), packed, alignment)
            elif not policy.packs and size < PAGE:
                return self._from_slab(_Cut, (mode, size), size, alignment)
            skip = policy.skip(capacity, alignment) if alignment < PAGE else 0
            size = align_up(skip + capacity, PAGE)
            made = self._map_if_possible(size, max(alignment, PAGE), mode)
            return Block(made, skip, size - skip, None)

    def release(self, block: Block) -> None:
        """Give a block back; BufferError, and nothing done, while a view of its pages lives."""
        with self.held():
            self._take_late()
            self._release(block)

    def release_late(self, block: Block) -> None:
        """Give a block back from a finalizer: at the next call of another method.

        A finalizer may run inside of any of them, and while a view, also garbage, is still there.
        """
        self._late.append(block)

    def free_size(self) -> int:
        """Bytes that the pool could still give to this process."""
        with self.held():
            self._take_late()
            return self.pool.free_size() + PAGE * len(self._spares)

    def wake(self) -> None:
        """End the rest of all that was given back, here and in the pool."""
        with self.held():
            self._take_late()
            while self._resting:
                self._wake()
            self._drop_spares(self._spares)
            self.pool.wake()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, for work with the pool.

        `IONotPermittedError` when this thread has it.

        A signal handler, or a ``__del__``, in the midst of another call would wait for ever.
        """
        if self._within == threading.get_ident():
            raise IONotPermittedError(
                f"pool {self.pool.name}: called in the midst of another call of this thread, by a "
                "signal handler or a __del__: leave it to the program, or drop the last reference"
            )
        with self._lock:
            self._within = threading.get_ident()
            try:
                yield
            finally:
                self._within = 0

    def _map(self, size: int, alignment: int, mode: CacheMode) -> Pages:
        extent = self.pool.allocate(size, alignment)
        try:
            mapping = self.pool.map(extent, mode)
        except BaseException:
            self.pool.free(extent)
            raise
        mapping.zero(0, size)
        return Pages(extent, mapping, mode)

    def _map_if_possible(self, size: int, alignment: int, mode: CacheMode) -> Pages:
        try:
            return self._map(size, alignment, mode)
        except IONoMemoryError:
            if not self._spares:
                raise
            self._drop_spares(self._spares)
            return self._map(size, alignment, mode)

    def _unmap(self, pages: Pages) -> None:
        pages.mapping.close()
        self.pool.free(pages.extent)

    def _from_slab(
        self, kind: type[_Slab], key: tuple[CacheMode, int], size: int, alignment: int
    ) -> Block:
        slab, offset = self._room(key, size, alignment)
        if slab is None:
            try:
                slab = kind(self._map_if_possible(PAGE, PAGE, key[0]), key)
            except IONoMemoryError:
                while self._resting and slab is None:
                    self._wake()
                    slab, offset = self._room(key, size, alignment)
                if slab is None:
                    raise
            else:
                self._slabs[key][slab] = None
                offset = slab.take(size, alignment) or 0  # an empty page has room
        slab.used += 1
        self._spares.pop(slab, None)
        if slab.full:
            del self._slabs[key][slab]
        slab.pages.mapping.zero(offset, size)
        return Block(slab.pages, offset, size, slab)

    def _room(
        self, key: tuple[CacheMode, int], size: int, alignment: int
    ) -> tuple[_Slab | None, int]:
        """Take bytes of one of the pages that were last given something back."""
        room = self._slabs.setdefault(key, {})
        for slab in islice(reversed(room), _SLABS_TRIED):
            offset = slab.take(size, alignment)
            if offset is not None:
                return slab, offset
        return None, 0

    def _release(self, block: Block) -> None:
        slab = block.slab
        if slab is None:
            self._unmap(block.pages)
            self._drop_lonely_spares()
            return
        if slab.used == 1 and not self._kept_by_others(slab):
            self._drop(slab)
            self._drop_lonely_spares()
            return
        slab.used -= 1
        if not slab.used:
            self._drop_spares([each for each in self._spares if each.key == slab.key])
            self._spares[slab] = None
        self._resting.append(block)
        self._resting_size += block.size
        while len(self._resting) > _RESTING_BLOCKS_MAX or self._resting_size > _RESTING_BYTES_MAX:
            self._wake()

    def _drop(self, slab: _Slab) -> None:
        """Give a page without a buffer back to the pool, where it rests with all its blocks."""
        self._unmap(slab.pages)
        slab.used = 0
        slab.gone = True
        self._slabs[slab.key].pop(slab, None)
        self._spares.pop(slab, None)

    def _kept_by_others(self, slab: _Slab) -> bool:
        """Whether a page keeps nothing from other processes that buffers do not keep as well."""
        return self.pool.held_anyway([slab.pages.extent, *self._empty()])[0]

    def _empty(self) -> list[Extent]:
        return [each.pages.extent for each in self._spares]

    def _drop_lonely_spares(self) -> None:
        held = self.pool.held_anyway(self._empty())
        self._drop_spares([each for each, kept in zip(self._spares, held, strict=True) if not kept])

    def _drop_spares(self, slabs: Iterable[_Slab]) -> None:
        """Give empty pages back; one that a view is left of stays."""
        for slab in list(slabs):
            with suppress(BufferError):
                self._drop(slab)

    def _wake(self) -> None:
        """End the rest of the oldest block; one whose page is gone rests there."""
        block = self._resting.popleft()
        self._resting_size -= block.size
        slab = block.slab
        if slab is not None and not slab.gone:
            slab.give(block.offset)
            self._slabs[slab.key][slab] = None

    def _take_late(self) -> None:
        for _ in range(len(self._late)):
            block = self._late.popleft()
            try:
                self._release(block)
            except BufferError:
                self._late.append(block)
