# SPDX-License-Identifier: Apache-2.0
"""The other process of a test: what it raises, and how it ended, comes out whoever waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dma_rehearsal.guest.testkit.other_process import OtherProcess, OtherProcessError

Ask = Callable[[], Any]


def echo(ask: Ask) -> Iterator[object]:
    yield "ready"
    while True:
        yield ask()


def raises(_: Ask) -> Iterator[object]:
    yield "ready"
    raise ValueError("broken")


def dies(_: Ask) -> Iterator[object]:
    yield "ready"
    os.kill(os.getpid(), signal.SIGALRM)


def ended(other: OtherProcess) -> None:
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)


def test_words_go_both_ways() -> None:
    with OtherProcess(echo) as other:
        assert other.hear() == "ready"
        other.tell(7)
        assert other.hear() == 7


@pytest.mark.parametrize("wait", [OtherProcess.hear, OtherProcess.tell])
def test_what_it_raised_is_told_also_to_who_tells_it_something(
    wait: Callable[[OtherProcess], Any],
) -> None:
    with OtherProcess(raises) as other:
        assert other.hear() == "ready"
        ended(other)
        with pytest.raises(OtherProcessError, match="ValueError: broken"):
            wait(other)


@pytest.mark.parametrize("wait", [OtherProcess.hear, OtherProcess.tell])
def test_how_it_ended_is_told(wait: Callable[[OtherProcess], Any]) -> None:
    with OtherProcess(dies) as other:
        assert other.hear() == "ready"
        ended(other)
        with pytest.raises(OtherProcessError, match="ended by SIGALRM without a word: 120 s"):
            wait(other)


def left() -> int:
    """Return the seconds that an alarm has left, and begin them anew."""
    seconds = signal.alarm(0)
    signal.alarm(seconds)
    return seconds


def test_each_word_begins_its_time_anew() -> None:
    """Its time is for a process that hangs, not for a slow machine."""

    def short(ask: Ask) -> Iterator[object]:
        signal.alarm(50)
        ask()
        yield left()
        signal.alarm(50)
        yield None
        yield left()

    with OtherProcess(short) as other:
        other.tell()
        assert other.hear() > 50
        assert other.hear() is None
        assert other.hear() > 50
