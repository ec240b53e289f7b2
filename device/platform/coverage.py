# SPDX-License-Identifier: Apache-2.0
"""How many ranges cover each address, and sorted pairs: what the protection unit looks up.

Both keep tens of thousands of entries in blocks of some hundreds. So a change moves some hundreds
of entries, and a search that passes a whole block costs one comparison.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate

_LOAD = 256  # entries that a block is filled with
_MOST = 2 * _LOAD

Pair = tuple[int, int]


class Coverage:
    """Counts the ranges that cover each address: those of one piece from each edge to the next.

    In a block of pieces, the counts are relative to ``_bases``, so that a range which covers all of
    the block changes one number. ``_lows`` has the least count of each block; -1: not known.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Take ranges as pairs of start and end."""
        steps: dict[int, int] = {0: 0}
        for start, end in ranges:
            steps[start] = steps.get(start, 0) + 1
            steps[end] = steps.get(end, 0) - 1
        edges = sorted(edge for edge, step in steps.items() if step or not edge)
        counts = [*accumulate(steps[edge] for edge in edges)]
        starts = range(0, len(edges), _LOAD)
        self._edges = [edges[start : start + _LOAD] for start in starts]
        self._counts = [counts[start : start + _LOAD] for start in starts]
        self._firsts = [block[0] for block in self._edges]
        self._bases = [0] * len(self._edges)
        self._lows = [-1] * len(self._edges)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Return each edge, and the count of the piece that it begins."""
        return [
            (edge, count + base)
            for edges, counts, base in zip(self._edges, self._counts, self._bases, strict=True)
            for edge, count in zip(edges, counts, strict=True)
        ]

    def copy(self) -> Coverage:
        """Return another one with the same ranges."""
        made = Coverage()
        made._edges = [block.copy() for block in self._edges]
        made._counts = [block.copy() for block in self._counts]
        made._firsts, made._bases = self._firsts.copy(), self._bases.copy()
        made._lows = self._lows.copy()
        return made

    def add(self, start: int, end: int, count: int = 1) -> None:
        """Cover [start, end) once more, or once less when ``count`` is -1."""
        self._make_edge(start)
        last, stop = self._make_edge(end)
        first, at = self._find(start)
        if first == last:
            counts = self._counts[first]
            for index in range(at, stop):
                counts[index] += count
        else:
            counts = self._counts[first]
            for index in range(at, len(counts)):
                counts[index] += count
            for block in range(first + 1, last):
                self._bases[block] += count
                self._lows[block] = -1
            counts = self._counts[last]
            for index in range(stop):
                counts[index] += count
        self._lows[first] = self._lows[last] = -1
        self._join(last, stop)
        self._join(first, at)

    def first_gap(self, start: int, end: int) -> int | None:
        """Return the first address of [start, end) that nothing covers, or None."""
        if start >= end:
            return None
        block, at = self._find(start)
        while block < len(self._edges) and self._firsts[block] < end:
            base = self._bases[block]
            if at or self._low(block) == 0:
                edges = self._edges[block]
                try:
                    index = self._counts[block].index(-base, at, bisect_left(edges, end))
                except ValueError:
                    pass
                else:
                    return max(start, edges[index])
            block, at = block + 1, 0
        return None

    def _low(self, block: int) -> int:
        low = self._lows[block]
        if low < 0:
            low = self._lows[block] = min(self._counts[block]) + self._bases[block]
        return low

    def _find(self, address: int) -> tuple[int, int]:
        """Return the block and the index of the piece that holds an address."""
        block = bisect_right(self._firsts, address) - 1
        return block, bisect_right(self._edges[block], address) - 1

    def _make_edge(self, address: int) -> tuple[int, int]:
        """Return the block and the index of the edge at ``address``; make one."""
        block, index = self._find(address)
        edges, counts = self._edges[block], self._counts[block]
        if edges[index] == address:
            return block, index
        index += 1
        edges.insert(index, address)
        counts.insert(index, counts[index - 1])
        if len(edges) <= _MOST:
            return block, index
        self._edges[block : block + 1] = edges[:_LOAD], edges[_LOAD:]
        self._counts[block : block + 1] = counts[:_LOAD], counts[_LOAD:]
        self._firsts.insert(block + 1, edges[_LOAD])
        self._bases.insert(block + 1, self._bases[block])
        self._lows[block : block + 1] = -1, -1
        return (block, index) if index < _LOAD else (block + 1, index - _LOAD)

    def _join(self, block: int, index: int) -> None:
        """Drop an edge that divides nothing."""
        edges, counts = self._edges[block], self._counts[block]
        if index:
            before = counts[index - 1]
        elif block:
            before = self._counts[block - 1][-1] + self._bases[block - 1] - self._bases[block]
        else:
            return
        if before != counts[index]:
            return
        del edges[index], counts[index]
        if not edges:
            del self._edges[block], self._counts[block]
            del self._firsts[block], self._bases[block], self._lows[block]
        elif not index:
            self._firsts[block] = edges[0]


class SortedPairs:
    """Pairs of numbers, ascending. The second number is a grant's id."""

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        """Take pairs in any order."""
        every = sorted(pairs)
        starts = range(0, len(every), _LOAD)
        self._blocks = [every[start : start + _LOAD] for start in starts] or [[]]
        self._firsts = [block[0] for block in self._blocks if block]
        self._tops: list[int] = [-1] * len(self._blocks)

    def add(self, pair: Pair) -> None:
        """Add a pair that is not there."""
        block = max(bisect_right(self._firsts, pair) - 1, 0)
        pairs = self._blocks[block]
        index = bisect_left(pairs, pair)
        pairs.insert(index, pair)
        self._tops[block] = -1
        if not index:
            self._firsts[block : block + 1] = [pair]
        if len(pairs) > _MOST:
            self._blocks[block : block + 1] = pairs[:_LOAD], pairs[_LOAD:]
            self._firsts.insert(block + 1, pairs[_LOAD])
            self._tops.insert(block + 1, -1)

    def remove(self, pair: Pair) -> None:
        """Remove a pair that is there."""
        block = bisect_right(self._firsts, pair) - 1
        pairs = self._blocks[block]
        index = bisect_left(pairs, pair)
        del pairs[index]
        self._tops[block] = -1
        if pairs:
            if not index:
                self._firsts[block] = pairs[0]
        elif len(self._blocks) > 1:
            del self._blocks[block], self._firsts[block], self._tops[block]
        else:
            self._firsts.clear()

    def up_to(self, pair: Pair) -> Pair | None:
        """Return the last pair that is not above ``pair``."""
        block = bisect_right(self._firsts, pair) - 1
        return (
            None if block < 0 else self._blocks[block][bisect_right(self._blocks[block], pair) - 1]
        )

    def above(self, pair: Pair) -> Pair | None:
        """Return the first pair that is above ``pair``."""
        block = bisect_right(self._firsts, pair) - 1
        if block >= 0:
            pairs = self._blocks[block]
            index = bisect_right(pairs, pair)
            if index < len(pairs):
                return pairs[index]
        return self._firsts[block + 1] if block + 1 < len(self._firsts) else None

    def last_with(
        self,
        top: Callable[[Pair], int],
        above: int,
        limit: Pair,
        among: Callable[[Pair], bool],
    ) -> Pair | None:
        """Return the last pair up to ``limit`` whose ``top`` is above a number, ``among`` some.

        The tops of a pair must not change while it is there: the highest of a block is kept.
        """
        # Thousands may come between it and the limit: they are passed by the block.
        for block in range(bisect_right(self._firsts, limit) - 1, -1, -1):
            pairs = self._blocks[block]
            if self._tops[block] < 0:
                self._tops[block] = max(map(top, pairs))
            if self._tops[block] > above:
                for pair in reversed(pairs[: bisect_right(pairs, limit)]):
                    if top(pair) > above and among(pair):
                        return pair
        return None
