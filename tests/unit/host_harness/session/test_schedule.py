# SPDX-License-Identifier: Apache-2.0
"""Tests are shared among VMs: each has one, none has two, and a promise holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.session.schedule import Schedule


@given(st.integers(0, 60), st.integers(1, 5), st.data())
def test_each_is_given_once_and_as_promised(count: int, workers: int, data: st.DataObject) -> None:
    schedule = Schedule(range(count), workers)
    idle = set(range(workers))
    promised: dict[int, int | None] = {}
    given_out = []
    while idle:
        worker = data.draw(st.sampled_from(sorted(idle)))
        taken = schedule.take(worker)
        if taken is None:
            idle.remove(worker)
            assert promised.get(worker) is None
            continue
        item, following = taken
        assert promised.get(worker, item) == item
        promised[worker] = following
        given_out.append(item)
    assert sorted(given_out) == list(range(count))


@given(st.integers(2, 60), st.lists(st.booleans(), max_size=200))
def test_two_go_towards_each_other(count: int, turns: list[bool]) -> None:
    """So each module but one is on one VM alone, and its neighbours are run one after the other."""
    schedule = Schedule(range(count), 2)
    taken: list[list[int]] = [[], []]
    for worker in [*map(int, turns), *[0, 1] * count]:
        if found := schedule.take(worker):
            taken[worker].append(found[0])
    assert taken[0] == list(range(len(taken[0])))
    assert taken[1] == list(range(count - 1, len(taken[0]) - 1, -1))


def test_one_that_is_fast_takes_what_others_have_left() -> None:
    schedule = Schedule(range(90), 3)
    for worker in (1, 2):
        schedule.take(worker)
    fast = 0
    while schedule.take(0):
        fast += 1
    # The others keep the tests that they run, and the next ones that they were promised.
    assert fast == 90 - 2 * 2


def test_no_test_for_a_worker_is_no_error() -> None:
    schedule = Schedule(["one"], 2)
    assert [schedule.take(worker) for worker in (0, 1)] == [("one", None), None]
    assert [schedule.take(worker) for worker in (0, 1)] == [None, None]
