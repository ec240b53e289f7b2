# SPDX-License-Identifier: Apache-2.0
"""The history of requests is what a deque of single records would be."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.dma import PLAIN, Transaction
from dma_rehearsal.device.endpoints.request_history import History
from dma_rehearsal.device.layout import DmaReason

CAPACITY = 8
LISTS = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))


@given(LISTS)
def test_history_is_a_bounded_list_of_records(lists: list[list[tuple[int, int]]]) -> None:
    history, model = History(CAPACITY), deque[Transaction](maxlen=CAPACITY)
    for number, ranges in enumerate(lists):
        write = bool(number % 2)
        history.add(write, ranges, PLAIN, DmaReason.NONE)
        model.extend(Transaction(write, *each, PLAIN, DmaReason.NONE) for each in ranges)
        assert list(history) == list(model)
        assert len(history) == len(model)
        assert history[-3:] == list(model)[-3:]
        kept = sum(len(ranges) for _, ranges, _, _ in history._lists)
        assert len(history._lists) <= kept < 2 * CAPACITY, "what nobody can ask for any more goes"
    history.clear()
    assert not list(history)
