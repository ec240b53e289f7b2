# SPDX-License-Identifier: Apache-2.0
"""Steps one after the other: those that wait, those that do not, and those nobody waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.task import Steps, Task


def at_once(on_done: Callable[[Any], None]) -> None:
    on_done("at once")


def test_what_waits_and_what_does_not() -> None:
    waiting: list[Callable[[Any], None]] = []
    seen: list[object] = []

    def steps() -> Steps[None]:
        for step in (at_once, waiting.append, at_once):
            seen.append((yield step))

    task = Task(steps())
    task.start()
    assert (seen, task.done) == (["at once"], False)
    waiting[0]("later")
    assert (seen, task.done) == (["at once", "later", "at once"], True)


def test_nothing_recurses() -> None:
    count = 0

    def steps() -> Steps[None]:
        nonlocal count
        for _ in range(100_000):
            yield at_once
            count += 1

    Task(steps()).start()
    assert count == 100_000


def test_cancelled_it_takes_no_further_step() -> None:
    waiting: list[Callable[[Any], None]] = []

    def steps() -> Steps[None]:
        yield waiting.append
        raise AssertionError("a step after the end")

    task = Task(steps())
    task.start()
    task.cancel()
    assert task.done
    waiting[0]("late")


def test_a_step_that_fails_ends_it() -> None:
    def steps() -> Steps[None]:
        yield at_once
        raise LookupError("a bug")

    task = Task(steps())
    with pytest.raises(LookupError):
        task.start()
    assert task.done
