# SPDX-License-Identifier: Apache-2.0
"""Which bytes requests have touched, beside a list of all of them."""

from __future__ import annotations

import itertools
import random

from dma_rehearsal.device.layout import GrantDirection
from dma_rehearsal.device.platform.touched import Touched

IN, OUT = GrantDirection.IN, GrantDirection.OUT
BASE, ROOM = 0x1_0000_0000, 64


def as_bytes(ranges: list[tuple[int, int]] | None) -> set[int]:
    assert ranges is not None
    assert all(left[1] < right[0] for left, right in itertools.pairwise(ranges))
    return {byte for start, end in ranges for byte in range(start, end)}


def test_what_is_untouched_is_what_a_list_of_all_bytes_says() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        touched, last = Touched(), {IN: [0] * ROOM, OUT: [0] * ROOM}
        for sequence in range(1, 30):
            start = dice.randrange(ROOM)
            length = dice.randint(1, ROOM - start)
            write = dice.random() < 0.5
            touched.note(BASE + start, length, sequence, write=write)
            last[IN if write else OUT][start : start + length] = [sequence] * length
        for _ in range(20):
            start = dice.randrange(ROOM)
            end = dice.randint(start, ROOM)
            since = dice.randrange(30)
            for asked in IN, OUT, IN | OUT:
                due = {
                    BASE + byte
                    for byte in range(start, end)
                    if all(last[each][byte] <= since for each in asked)
                }
                found = touched.untouched(BASE + start, end - start, asked, since)
                assert as_bytes(found) == due, (seed, start, end, since, asked)


def test_requests_side_by_side_are_one_piece_when_they_are_one_list() -> None:
    touched = Touched()
    for index in range(100):
        touched.note(BASE + 64 * index, 64, 7, write=True)
    assert len(touched._pieces[IN]) == 3
    assert touched.untouched(BASE - 8, 6416, IN, 6) == [
        (BASE - 8, BASE),
        (BASE + 6400, BASE + 6408),
    ]


def test_a_request_of_nothing_touches_nothing() -> None:
    touched = Touched()
    touched.note(BASE, 0, 1, write=True)
    assert touched.untouched(BASE, 1, IN, 0) == [(BASE, BASE + 1)]
    assert touched.untouched(BASE, 0, IN, 0) == []


def test_without_room_it_says_that_it_does_not_know() -> None:
    touched = Touched(limit=9)
    for sequence in range(1, 6):
        touched.note(BASE + 100 * sequence, 10, sequence, write=True)
    assert touched.untouched(BASE, 1000, IN, 3) is None
    assert touched.untouched(BASE + 500, 20, IN, 4) == [(BASE + 510, BASE + 520)]
    assert len(touched._pieces[IN]) <= 9


def test_what_was_before_a_restart_is_not_known() -> None:
    touched = Touched()
    touched.note(BASE, 10, 1, write=True)
    touched.restart(1)
    assert touched.untouched(BASE, 10, IN, 0) is None
    assert touched.untouched(BASE, 10, IN, 1) == [(BASE, BASE + 10)]
