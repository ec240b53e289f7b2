# SPDX-License-Identifier: Apache-2.0
"""Coverage and sorted pairs, in blocks of few entries, against lists that are searched whole."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.platform import coverage
from dma_rehearsal.device.platform.coverage import Coverage, SortedPairs
from tests.generated import examples

SPACE = 60


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "_LOAD", 3)
        patch.setattr(coverage, "_MOST", 6)
        yield


ranges = st.lists(
    st.tuples(st.integers(0, SPACE), st.integers(1, SPACE)).map(lambda each: (each[0], sum(each))),
    max_size=30,
)


@settings(max_examples=examples(300))
@given(ranges, ranges, st.randoms(use_true_random=False))
def test_gaps_are_those_of_every_address(
    kept: list[tuple[int, int]], gone: list[tuple[int, int]], draw: Random
) -> None:
    cover = Coverage()
    steps = [(each, 1) for each in kept + gone]
    draw.shuffle(steps)
    for each, _ in steps:
        cover.add(*each)
        cover.first_gap(0, 2 * SPACE)  # what it keeps of a block must not outlive a change
    draw.shuffle(gone)
    for each in gone:
        cover.add(*each, -1)
        cover.first_gap(0, 2 * SPACE)
    covered = {address for start, end in kept for address in range(start, end)}
    for start in range(0, 2 * SPACE, 3):
        for end in (start, start + 1, start + 7, 2 * SPACE):
            due = next((each for each in range(start, end) if each not in covered), None)
            assert cover.first_gap(start, end) == due
    assert cover.pieces == Coverage(kept).pieces
    assert all(len(block) <= 6 for block in cover._edges)


pairs = st.sets(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=60)


@settings(max_examples=examples(300))
@given(pairs, pairs, st.integers(0, 21))
def test_pairs_are_found_as_in_a_sorted_list(
    some: set[tuple[int, int]], others: set[tuple[int, int]], start: int
) -> None:
    found = SortedPairs(some)

    def top(pair: tuple[int, int]) -> int:
        return pair[0] + pair[1] % 5

    def odd(pair: tuple[int, int]) -> bool:
        return bool(pair[1] % 2)

    found.last_with(top, start, (start, 100), lambda _: True)
    for each in others - some:
        found.add(each)
    for each in some - others:
        found.remove(each)
    kept = sorted(others)
    for pair in (start, 0), (start, 10), (start, 100):
        below = [each for each in kept if each <= pair]
        assert found.up_to(pair) == (below[-1] if below else None)
        assert found.above(pair) == next((each for each in kept if each > pair), None)
        high = [each for each in below if top(each) > start]
        assert found.last_with(top, start, pair, lambda _: True) == (high[-1] if high else None)
        chosen = [each for each in high if odd(each)]
        assert found.last_with(top, start, pair, odd) == (chosen[-1] if chosen else None)
    assert all(len(block) <= 6 for block in found._blocks)
