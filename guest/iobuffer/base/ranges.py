# SPDX-License-Identifier: Apache-2.0
"""Address ranges: the page size, alignment, and which parts are free. It touches no memory."""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError

PAGE: Final = mmap.PAGESIZE
"""Bytes in a page of this kernel: 4, 16 or 64 KiB. The guest's one definition of it."""

Segment = tuple[int, int]
"""(bus or physical address, length) of memory, both in bytes."""
Range = tuple[int, int]
"""(start, size) of addresses, or of any unit."""


def align_up(value: int, alignment: int) -> int:
    """Return the least multiple of ``alignment`` (a power of two) that is >= ``value``."""
    return (value + alignment - 1) & -alignment


def align_down(value: int, alignment: int) -> int:
    """Return the greatest multiple of ``alignment`` (a power of two) that is <= ``value``."""
    return value & -alignment


class RangeAllocator:
    """Hands out parts of the ranges that were added to it: best fit, coalescing, aligned.

    Two sorted views of the free runs are kept, by address and by size, so that a search is a
    bisection. Free runs never touch each other. Addresses and sizes are in bytes, or in any unit.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []  # of the free runs, ascending
        self._sizes: dict[int, int] = {}  # start of a free run -> its size
        self._by_size: list[tuple[int, int]] = []  # (size, start), ascending
        self._taken: dict[int, int] = {}  # start -> size of what is handed out
        self._free = 0

    @property
    def free_size(self) -> int:
        """The bytes that are free in all."""
        return self._free

    @property
    def largest(self) -> int:
        """The size of the longest free run, 0 when nothing is free."""
        return self._by_size[-1][0] if self._by_size else 0

    @property
    def taken(self) -> dict[int, int]:
        """A copy of the ranges handed out: start -> size."""
        return dict(self._taken)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the free runs as (start, size), by ascending start."""
        for start in self._starts:
            yield start, self._sizes[start]

    def add(self, start: int, size: int) -> None:
        """Make [start, start + size) free. IOBadArgumentError when a part of it is free already.

        It must not overlap a range that is handed out; the caller has to know that.
        """
        if size <= 0 or start < 0:
            raise IOBadArgumentError(f"range of {size} at {start:#x}", address=start, length=size)
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] < start + size:
            raise IOBadArgumentError(
                f"{start:#x}+{size:#x} overlaps the free run at {self._starts[index]:#x}",
                address=start,
                length=size,
            )
        self._free += size
        if index:
            left = self._starts[index - 1]
            left_end = left + self._sizes[left]
            if left_end > start:
                self._free -= size
                raise IOBadArgumentError(
                    f"{start:#x}+{size:#x} overlaps the free run at {left:#x}",
                    address=start,
                    length=size,
                )
            if left_end == start:
                size += self._drop(left)
                start = left
        if start + size in self._sizes:
            size += self._drop(start + size)
        self._insert(start, size)

    def discard(self, start: int, size: int) -> bool:
        """Take [start, start + size) away for good if all of it is free; say whether it was."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or size <= 0:
            return False
        run = self._starts[index]
        end = run + self._sizes[run]
        if start + size > end:
            return False
        self._drop(run)
        if run < start:
            self._insert(run, start - run)
        if start + size < end:
            self._insert(start + size, end - start - size)
        self._free -= size
        return True

    def allocate(self, size: int, alignment: int = 1, *, highest: bool = False) -> int | None:
        """Hand out ``size`` units at a multiple of ``alignment``, a power of two.

        Of the shortest run that fits, the lowest address; or the ``highest`` of all. None when no
        run fits.
        """
        self._check(size, alignment)
        for run in reversed(self._starts) if highest else ():
            start = align_down(run + self._sizes[run] - size, alignment)
            if start >= run:
                self.allocate_at(start, size)
                return start
        for index in range(bisect_left(self._by_size, (size, 0)), len(self._by_size)):
            length, run = self._by_size[index]
            start = align_up(run, alignment)
            if start + size <= run + length:
                self.allocate_at(start, size)
                return start
        return None

    def allocate_at(self, start: int, size: int) -> bool:
        """Hand out just [start, start + size); False when a part of it is not free."""
        self._check(size, 1)
        if not self.discard(start, size):
            return False
        self._taken[start] = size
        return True

    def free(self, start: int) -> int:
        """Take back what `allocate` handed out at ``start``; return its size.

        IOBadArgumentError when nothing is handed out there: a range is freed once.
        """
        size = self.forget(start)
        self.add(start, size)
        return size

    def forget(self, start: int) -> int:
        """Take back what `allocate` handed out at ``start``, and do not make it free.

        Return its size. IOBadArgumentError when nothing is handed out there.
        """
        size = self._taken.pop(start, None)
        if size is None:
            raise IOBadArgumentError(f"nothing is handed out at {start:#x}", address=start)
        return size

    def exclude(self, start: int, size: int) -> list[tuple[int, int]]:
        """Take the free parts of [start, start + size) away; return them as (start, size)."""
        end = start + size
        index = max(0, bisect_right(self._starts, start) - 1)
        parts: list[tuple[int, int]] = []
        while index < len(self._starts) and (run := self._starts[index]) < end:
            first, last = max(run, start), min(run + self._sizes[run], end)
            if first < last:
                parts.append((first, last - first))
            index += 1
        for first, length in parts:
            self.discard(first, length)
        return parts

    @staticmethod
    def _check(size: int, alignment: int) -> None:
        if size <= 0:
            raise IOBadArgumentError(f"size {size} must be at least 1", length=size)
        if alignment <= 0 or alignment & (alignment - 1):
            raise IOBadArgumentError(f"alignment {alignment} is not a power of two")

    def _insert(self, start: int, size: int) -> None:
        insort(self._starts, start)
        self._sizes[start] = size
        insort(self._by_size, (size, start))

    def _drop(self, start: int) -> int:
        size = self._sizes.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        return size
