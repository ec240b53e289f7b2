# SPDX-License-Identifier: Apache-2.0
"""The log of written pages: what is told, what it costs, and what it keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.vfio_user import dirty
from dma_rehearsal.device.vfio_user.dirty import MAX_RANGES, DmaLog

PAGE = 4096
CHUNK = 1 << 27
SPAN = 64 * PAGE
somewhere = st.tuples(st.integers(0, SPAN - 1), st.integers(1, 5 * PAGE))


def pages(address: int, length: int) -> set[int]:
    return set(range(address // PAGE, (address + length - 1) // PAGE + 1))


def reported(log: DmaLog, first: int, count: int) -> set[int]:
    bits = int.from_bytes(log.report(first * PAGE, count * PAGE, PAGE), "little")
    return {first + page for page in range(count) if bits >> page & 1}


def marks(log: DmaLog, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note each run of pages that is marked from now on."""
    made: list[tuple[int, int]] = []
    original = log._mark

    def noted(page: int, end: int) -> None:
        made.append((page, end))
        original(page, end)

    monkeypatch.setattr(log, "_mark", noted)
    return made


@given(st.lists(somewhere, max_size=6), st.lists(somewhere, max_size=6))
def test_written_pages_of_any_ranges(
    ranges: list[tuple[int, int]], writes: list[tuple[int, int]]
) -> None:
    log = DmaLog()
    log.start(PAGE, ranges)
    for write in writes:
        log.wrote(*write)
    written = set[int]().union(*(pages(*each) for each in writes))
    if ranges:
        written &= set[int]().union(*(pages(*each) for each in ranges))
    assert reported(log, 0, 2 * SPAN // PAGE) == written
    assert reported(log, 0, 2 * SPAN // PAGE) == set(), "it forgets what it told"


@pytest.mark.parametrize(
    "ranges",
    [
        [(0, 1 << 32)] * MAX_RANGES,
        [(step * PAGE, PAGE) for step in range(MAX_RANGES)],
        [(step * PAGE, 3 * PAGE) for step in reversed(range(MAX_RANGES))],
        [(2 * step, 1) for step in range(MAX_RANGES)],
    ],
    ids=["equal", "neighbours", "overlapping", "bytes of one page"],
)
def test_ranges_that_touch_cost_as_much_as_one(
    ranges: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DmaLog()
    log.start(PAGE, ranges)
    made = marks(log, monkeypatch)
    log.wrote(100, 16)
    assert made == [(0, 1)]


def test_ranges_that_a_write_does_not_meet_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = DmaLog()
    log.start(PAGE, [(2 * step * PAGE, PAGE) for step in range(MAX_RANGES)])
    made = marks(log, monkeypatch)
    log.wrote(1000 * PAGE, 3 * PAGE)
    assert made == [(1000, 1001), (1002, 1003)]
    log.wrote(1001 * PAGE, PAGE)
    log.wrote(3000 * PAGE, PAGE)
    assert len(made) == 2


def test_what_was_told_is_not_kept() -> None:
    log = DmaLog()
    log.start(PAGE, [])
    log.wrote(3 * CHUNK - PAGE, 2 * PAGE)
    assert len(log._chunks) == 2
    last = 3 * CHUNK // PAGE
    assert reported(log, last - 1, 1) == {last - 1}
    assert len(log._chunks) == 1
    assert reported(log, last, 1) == {last}
    assert not log._chunks


def test_more_memory_than_there_are_chunks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client can map, have written and unmap as often as it likes. None is told too little."""
    monkeypatch.setattr(dirty, "MAX_CHUNKS", 2)
    log = DmaLog()
    log.start(PAGE, [])
    for number in range(2):
        log.wrote(number * CHUNK + PAGE, PAGE)
    assert reported(log, 5 * CHUNK // PAGE, 4) == set()
    for number in range(2, 100):
        log.wrote(number * CHUNK, PAGE)
    assert len(log._chunks) == 2
    assert reported(log, 0, 4) == {1}, "a chunk knows its own"
    assert reported(log, 50 * CHUNK // PAGE, 4) == set(
        range(50 * CHUNK // PAGE, 50 * CHUNK // PAGE + 4)
    )
    log.stop()
    log.start(PAGE, [])
    assert reported(log, 50 * CHUNK // PAGE, 4) == set()
