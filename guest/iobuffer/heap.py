"""Buffers of any size out of pools that give whole pages.

A buffer of a page or more, or with a cache mode that was asked for, gets mapped pages of its own.
Smaller ones share pages, by size: a page is cut into equal blocks whose size is a power of two, at
least a cache line, so each has its own lines, its alignment, and does not cross the page. All
blocks of a page have one cache mode, as the page has one entry.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .errors import IONotPermittedError
from .options import CacheMode
from .pool import PAGE, Extent, ExtentPool, align_up
from .vm import Mapping

CACHE_LINE: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Pages taken from a pool, and their mapping with ``mode``. Zeroed."""

    extent: Extent
    mapping: Mapping
    mode: CacheMode


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What one buffer got: ``size`` bytes from ``offset`` of its pages, whole cache lines."""

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


class _Slab:
    """One page cut into blocks of ``size`` bytes."""

    __slots__ = ("free", "pages", "size")

    def __init__(self, pages: Pages, size: int) -> None:
        self.pages = pages
        self.size = size
        self.free = list(range(PAGE - size, -1, -size))  # the lowest is taken first


class Heap:
    """Takes memory from one pool, for the threads of one process."""

    def __init__(self, pool: ExtentPool) -> None:
        self.pool = pool
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._within = 0  # the thread that has it
        # Those with room; the inner dict is an ordered set.
        self._slabs: dict[tuple[CacheMode, int], dict[_Slab, None]] = {}
        self._late: deque[Block] = deque()  # given back by finalizers

    def allocate(self, capacity: int, alignment: int, mode: CacheMode, *, pages: bool) -> Block:
        """Take zeroed memory for ``capacity`` bytes; ``pages`` = on pages of its own.

        `IONoMemoryError` when the pool has none; what the driver says when it cannot be mapped.
        """
        with self._held():
            self._take_late()
            size = max(CACHE_LINE, alignment, 1 << (capacity - 1).bit_length())
            if not pages and size < PAGE:
                return self._from_slab(size, mode)
            size = align_up(capacity, PAGE)
            return Block(self._map(size, max(alignment, PAGE), mode), 0, size, None)

    def release(self, block: Block) -> None:
        """Give a block back; BufferError, and nothing done, while a view of its pages lives."""
        with self._held():
            self._take_late()
            self._release(block)

    def release_late(self, block: Block) -> None:
        """Give a block back from a finalizer: at the next call of another method.

        A finalizer may run inside of any of them, and while a view, also garbage, is still there.
        """
        self._late.append(block)

    def free_size(self) -> int:
        """Bytes that the pool could still give to this process."""
        with self._held():
            self._take_late()
            return self.pool.free_size()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; `IONotPermittedError` when this thread has it.

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

    def _unmap(self, pages: Pages) -> None:
        pages.mapping.close()
        self.pool.free(pages.extent)

    def _from_slab(self, size: int, mode: CacheMode) -> Block:
        room = self._slabs.setdefault((mode, size), {})
        if not room:
            room[_Slab(self._map(PAGE, PAGE, mode), size)] = None
        slab = next(reversed(room))
        offset = slab.free.pop()
        if not slab.free:
            del room[slab]
        slab.pages.mapping.zero(offset, size)
        return Block(slab.pages, offset, size, slab)

    def _release(self, block: Block) -> None:
        slab = block.slab
        if slab is None:
            self._unmap(block.pages)
            return
        room = self._slabs[block.pages.mode, slab.size]
        if (len(slab.free) + 1) * slab.size == PAGE:
            self._unmap(slab.pages)
            room.pop(slab, None)
            return
        slab.free.append(block.offset)
        room[slab] = None

    def _take_late(self) -> None:
        for _ in range(len(self._late)):
            block = self._late.popleft()
            try:
                self._release(block)
            except BufferError:
                self._late.append(block)
