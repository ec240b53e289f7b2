# SPDX-License-Identifier: Apache-2.0
"""The addresses that grants open to every function, and to single ones."""

from __future__ import annotations

from collections.abc import Iterable

from dma_rehearsal.device.platform.coverage import Coverage


class FunctionCoverage:
    """A `Coverage` for all functions, and one for each function that ranges name.

    A function is its requester ID, or None. A range of None is open to every function; a request of
    None, a function whose ID is not known, may use the ranges of all.

    The coverage of a function has the ranges for every function, too. So a search looks at one
    coverage, however the ranges of several functions alternate; the price is a copy for each
    function, whose number the caller bounds.
    """

    def __init__(self, ranges: Iterable[tuple[int, int, int | None]] = ()) -> None:
        """Take ranges: start, end, function."""
        ranges = list(ranges)
        self.every = Coverage((start, end) for start, end, function in ranges if function is None)
        self.named: dict[int, Coverage] = {}
        self._counts: dict[int, int] = {}  # of the ranges that are for one function
        self._any = self.every  # the ranges of all; the same object while no function is named
        for start, end, function in ranges:
            if function is not None:
                self.add(start, end, function)

    def add(self, start: int, end: int, function: int | None, count: int = 1) -> None:
        """Cover [start, end) once more for a function, or once less when ``count`` is -1."""
        if function is None:
            self.every.add(start, end, count)
            for each in self.named.values():
                each.add(start, end, count)
            if self._any is not self.every:
                self._any.add(start, end, count)
            return
        if not self.named:
            self._any = self.every.copy()
        if function not in self.named:
            self.named[function] = self.every.copy()
        self._any.add(start, end, count)
        left = self._counts[function] = self._counts.get(function, 0) + count
        if left:
            self.named[function].add(start, end, count)
        else:
            del self._counts[function], self.named[function]
        if not self.named:
            self._any = self.every

    def first_gap(self, start: int, end: int, function: int | None) -> int | None:
        """Return the first address of [start, end) that is not open to a function, or None."""
        if function is None:
            return self._any.first_gap(start, end)
        return self.named.get(function, self.every).first_gap(start, end)
