# SPDX-License-Identifier: Apache-2.0
"""RangeAllocator against a model that keeps one flag a unit."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError
from dma_rehearsal.guest.iobuffer.base.ranges import RangeAllocator, align_down, align_up
from tests.generated import examples

SPACE = 96
UNKNOWN, FREE, TAKEN = range(3)


class RangesMachine(RuleBasedStateMachine):
    """The same calls to the allocator and to a list of units."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeAllocator()
        self.units = [UNKNOWN] * SPACE
        self.taken: dict[int, int] = {}

    def _free_runs(self) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for at, state in enumerate(self.units):
            if state != FREE:
                continue
            if runs and sum(runs[-1]) == at:
                runs[-1] = runs[-1][0], runs[-1][1] + 1
            else:
                runs.append((at, 1))
        return runs

    @rule(start=st.integers(0, SPACE - 1), size=st.integers(1, SPACE))
    def add(self, start: int, size: int) -> None:
        size = min(size, SPACE - start)
        part = self.units[start : start + size]
        if TAKEN in part:
            return
        if FREE in part:
            with pytest.raises(IOBadArgumentError, match="overlaps"):
                self.ranges.add(start, size)
            return
        self.ranges.add(start, size)
        self.units[start : start + size] = [FREE] * size

    @rule(start=st.integers(0, SPACE - 1), size=st.integers(1, 12))
    def discard(self, start: int, size: int) -> None:
        part = self.units[start : start + size]
        expected = len(part) == size and set(part) == {FREE}
        assert self.ranges.discard(start, size) == expected
        if expected:
            self.units[start : start + size] = [UNKNOWN] * size

    @rule(size=st.integers(1, 20), alignment=st.sampled_from([1, 2, 4, 8, 16]))
    def allocate(self, size: int, alignment: int) -> None:
        fits = [
            (length, align_up(start, alignment))
            for start, length in self._free_runs()
            if align_up(start, alignment) + size <= start + length
        ]
        start = self.ranges.allocate(size, alignment)
        if not fits:
            assert start is None
            return
        assert start == min(fits)[1], "best fit, then the lowest address"
        self.units[start : start + size] = [TAKEN] * size
        self.taken[start] = size

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.taken)))
        size = self.taken.pop(start)
        assert self.ranges.free(start) == size
        self.units[start : start + size] = [FREE] * size
        with pytest.raises(IOBadArgumentError, match="nothing is handed out"):
            self.ranges.free(start)

    @invariant()
    def agrees(self) -> None:
        runs = self._free_runs()
        assert list(self.ranges.runs()) == runs
        assert self.ranges.free_size == sum(size for _, size in runs)
        assert self.ranges.largest == max((size for _, size in runs), default=0)
        assert self.ranges.taken == self.taken


TestRanges = RangesMachine.TestCase
TestRanges.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(("size", "alignment"), [(0, 1), (-1, 1), (1, 0), (1, 3), (1, -2)])
def test_bad_requests(size: int, alignment: int) -> None:
    ranges = RangeAllocator()
    ranges.add(0, 100)
    with pytest.raises(IOBadArgumentError):
        ranges.allocate(size, alignment)


def test_align() -> None:
    assert [align_up(n, 8) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]
    assert [align_down(n, 8) for n in (0, 1, 8, 9)] == [0, 0, 8, 8]


def test_all_comes_back_as_one_run() -> None:
    ranges = RangeAllocator()
    ranges.add(0x1000, 0x100000)
    held = [ranges.allocate(0x40 * (1 + i % 7), 1 << i % 9) for i in range(500)]
    for start in [*held[::2], *held[1::2]]:
        assert start is not None
        ranges.free(start)
    assert list(ranges.runs()) == [(0x1000, 0x100000)]


def test_ten_thousand_live_ranges_are_no_trouble() -> None:
    ranges = RangeAllocator()
    ranges.add(0, 1 << 30)
    started = time.perf_counter()
    held = [ranges.allocate(4096, 4096) for _ in range(10_000)]
    for start in held[::2]:
        assert start is not None
        ranges.free(start)
    for _ in range(5000):
        assert ranges.allocate(4096, 4096) is not None
    assert time.perf_counter() - started < 10, "20,000 steps: far below a second, unless quadratic"
