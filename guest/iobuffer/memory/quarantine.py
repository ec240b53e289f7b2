# SPDX-License-Identifier: Apache-2.0
"""Quarantine: released memory rests, so that a late DMA is denied, and does not hit another buffer.

Ranges rest in the order of their release, up to a number of bytes and of ranges; the oldest go out
first. A resting range is given back before its time only to an allocation that would fail
otherwise. So it counts as free.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

from dma_rehearsal.guest.iobuffer.base.ranges import Range, RangeAllocator

# With the blocks and pins that rest, as many as `provenance` remembers.
RANGES_MAX: Final = 128


class Quarantine:
    """Ranges at rest, none over another: at most ``most`` bytes of them, and `RANGES_MAX`.

    The newest rests also when it alone is larger. Bytes, or any unit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[int, int] = {}  # start -> size, the oldest first
        self._starts: list[int] = []  # ascending
        self.size = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Range]:
        """Yield the ranges, the oldest first."""
        return iter(list(self._sizes.items()))

    def add(self, start: int, size: int) -> list[Range]:
        """Let a range rest; return those whose rest is over, the oldest first."""
        self._sizes[start] = size
        insort(self._starts, start)
        self.size += size
        over: list[Range] = []
        while len(self._sizes) > 1 and (self.size > self._most or len(self._sizes) > RANGES_MAX):
            over += self.wake(1)
        return over

    def wake(self, count: int) -> list[Range]:
        """End the rest of the ``count`` oldest, or of as many as there are; return them."""
        return [self._remove(start) for start in list(self._sizes)[:count]]

    def wake_within(self, start: int, size: int) -> list[Range]:
        """End the rest of every range that has a part in [start, start + size); return them."""
        return [self._remove(each) for each, _ in list(self.within(start, size))]

    def within(self, start: int, size: int) -> Iterator[Range]:
        """Yield the ranges, whole, that have a part in [start, start + size), ascending."""
        index = bisect_right(self._starts, start)
        if index and start < (before := self._starts[index - 1]) + self._sizes[before]:
            index -= 1
        while index < len(self._starts) and self._starts[index] < start + size:
            yield self._starts[index], self._sizes[self._starts[index]]
            index += 1

    def _remove(self, start: int) -> Range:
        size = self._sizes.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        self.size -= size
        return start, size


def more_and_more(quarantine: Quarantine) -> Iterator[int]:
    """Yield how many to wake before each further try of an allocation, until none is left."""
    count = 1
    while quarantine:
        yield count
        count *= 2


class RestingRanges:
    """Ranges of one owner: those that are given back rest. Units as in `RangeAllocator`."""

    def __init__(self) -> None:
        self._free = RangeAllocator()
        self._resting = Quarantine(0)
        self._added = 0

    @property
    def free_size(self) -> int:
        """The bytes that are free in all, including those that rest."""
        return self._free.free_size + self._resting.size

    @property
    def largest(self) -> int:
        """The size of the longest run that could be had, 0 when nothing is free."""
        return max((size for _, size in self.runs()), default=0)

    def add(self, start: int, size: int) -> None:
        """Make a range free, see `RangeAllocator.add`. Up to half of all that was added rests."""
        self._free.add(start, size)
        self._added += size
        waiting, self._resting = self._resting, Quarantine(self._added // 2)
        for each in waiting:
            self._rest(*each)

    def runs(self) -> Iterator[Range]:
        """Yield the ranges that an allocation could get as (start, size), by ascending start."""
        if not self._resting:
            yield from self._free.runs()
            return
        merged = RangeAllocator()
        for start, size in (*self._free.runs(), *self._resting):
            merged.add(start, size)
        yield from merged.runs()

    def rested(self) -> Iterator[Range]:
        """Yield the ranges that are free and do not rest, by ascending start."""
        return self._free.runs()

    def wake_some(self) -> Iterator[None]:
        """Yield once as things are, then each time that more has been woken, the oldest first."""
        yield
        for count in more_and_more(self._resting):
            self._put_back(self._resting.wake(count))
            yield

    def wake(self) -> None:
        """End the rest of all that rests."""
        self._put_back(self._resting.wake(len(self._resting)))

    def allocate(self, size: int, alignment: int = 1) -> int | None:
        """Hand out a range, see `RangeAllocator.allocate`; resting ranges are the last resort."""
        for _ in self.wake_some():
            start = self._free.allocate(size, alignment)
            if start is not None:
                return start
        return None

    def allocate_at(self, start: int, size: int) -> bool:
        """Hand out just these, also if they rest; False when a part of them is not free."""
        if self._free.allocate_at(start, size):
            return True
        self._put_back(self._resting.wake_within(start, size))
        return self._free.allocate_at(start, size)

    def discard(self, start: int, size: int) -> None:
        """Take the free parts of a range away for good."""
        self._put_back(self._resting.wake_within(start, size))
        self._free.exclude(start, size)

    def free(self, start: int, *, rest: bool = True) -> int:
        """Take back the range handed out at ``start``, to rest; return its size.

        `IOBadArgumentError` when nothing is handed out there.
        """
        size = self._free.forget(start)
        if rest:
            self._rest(start, size)
        else:
            self._free.add(start, size)
        return size

    def _rest(self, start: int, size: int) -> None:
        self._put_back(self._resting.add(start, size))

    def _put_back(self, ranges: list[Range]) -> None:
        for start, size in ranges:
            self._free.add(start, size)
