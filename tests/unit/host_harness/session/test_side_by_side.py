# SPDX-License-Identifier: Apache-2.0
"""Several VMs at a time, on pipes that stand for them."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.session import side_by_side

LIMIT_S = 5.0


@dataclass(frozen=True)
class Item:
    """A test, by its name."""

    nodeid: str


@dataclass
class Seen:
    """A stand-in's report of a test."""

    passed: bool


class StandIn:
    """A worker, its VM and the test that runs there. ``behave`` is asked when one begins.

    ``together`` are all of a run: who polls one looks at all, as VMs do.
    """

    def __init__(self, behave: Callable[[Item], str]) -> None:
        self.vm = self
        self.together: list[StandIn] = [self]
        self.began: list[tuple[str, str | None]] = []
        self.unread = False
        self._behave = behave
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._said = ""

    def close(self) -> None:
        for each in (self._reader, self._writer):
            os.close(each)

    def fileno(self) -> int:
        return self._reader

    def start(self, item: Item, following: Item | None) -> StandIn:
        self.began.append((item.nodeid, following.nodeid if following else None))
        self._end = time.monotonic() + LIMIT_S
        said = self._behave(item)
        if said == "unreachable":
            raise NoVerdict("test", "the result channel broke", subject=item.nodeid)
        if said == "late":
            self._end = time.monotonic() + 0.05
        else:
            self.say(said)
        return self

    def say(self, what: str) -> None:
        os.write(self._writer, what.encode())

    @property
    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def poll(self, _phase: str, timeout_s: float) -> None:
        ready, _, _ = select.select(self.together, [], [], timeout_s)
        for each in ready:
            each.pull()

    def pull(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._said = os.read(self._reader, 64).decode()
            self.unread = True
        if self._said == "lost":
            raise NoVerdict("test", "QEMU ended", subject=self.began[-1][0])

    def take(self, _phase: str, *kinds: str) -> None:
        """Any message of an idle VM is a loss."""
        assert not kinds
        if self._said:
            raise NoVerdict("test", f"the guest sent {self._said!r}")

    def look(self) -> str | None:
        if self.remaining_s <= 0:
            raise NoVerdict("test", "no answer within its deadline", subject=self.began[-1][0])
        said, self._said, self.unread = self._said, "", False
        return said or None

    def see(self, outcome: str) -> Seen:
        return Seen(outcome == "passed")


class Bringer(StandIn):
    """The first look at its test waits for something, and meanwhile brings the other VM's word."""

    looks = 0

    def look(self) -> str | None:
        self.looks += 1
        if self.looks == 1:
            super().look()
            self.together[0].say("passed")
            self.together[0].pull()
            return None
        return "passed"


@dataclass
class Session:
    """The calls that a run made back."""

    ended: list[tuple[int, str, bool]] = field(default_factory=list)
    stop_at_failure: bool = False

    def stopped(self) -> bool:
        return self.stop_at_failure and any(not passed for _, _, passed in self.ended)


def run(
    items: Sequence[Item], *behave: Callable[[Item], str], stop_at_failure: bool = False
) -> tuple[list[Any], Session]:
    return run_on([StandIn(each) for each in behave], items, stop_at_failure=stop_at_failure)


def run_on(
    workers: list[Any], items: Sequence[Item], *, stop_at_failure: bool = False
) -> tuple[list[Any], Session]:
    for worker in workers:
        worker.together = workers
    session = Session(stop_at_failure=stop_at_failure)

    def done(worker: Any, item: Item, seen: Any) -> None:
        session.ended.append((workers.index(worker), item.nodeid, seen.passed))

    try:
        side_by_side.run(workers, items, done=done, stopped=session.stopped)  # type: ignore[type-var]
    finally:
        for worker in workers:
            worker.close()
    return workers, session


ITEMS = [Item(f"test_{number}") for number in range(20)]


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """A run that hangs is ended by its deadline, which is short here; this says so plainly."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < LIMIT_S


def test_each_test_ends_once_on_the_vm_where_it_began() -> None:
    workers, session = run(ITEMS, lambda _: "passed", lambda _: "passed")
    assert sorted(name for _, name, _ in session.ended) == sorted(each.nodeid for each in ITEMS)
    for number, worker in enumerate(workers):
        names = [name for name, _ in worker.began]
        assert names == [name for where, name, _ in session.ended if where == number]
        assert [following for _, following in worker.began] == [*names[1:], None]
        assert names, "both have some"


def test_failure_is_told_before_the_next_one_begins() -> None:
    """So a run that shall stop at it does, but for what runs on the other VM."""
    workers, session = run(
        ITEMS,
        lambda item: "failed" if item is ITEMS[3] else "passed",
        lambda _: "passed",
        stop_at_failure=True,
    )
    assert [name for name, _ in workers[0].began] == [each.nodeid for each in ITEMS[:4]]
    assert (0, "test_3", False) in session.ended
    assert len(session.ended) == sum(len(worker.began) for worker in workers)


def test_what_another_ones_look_has_brought_is_not_left_lying() -> None:
    """No VM is idle with an unread message while the others are silent."""
    _, session = run_on([StandIn(lambda _: ""), Bringer(lambda _: "?")], ITEMS[:2])
    assert [where for where, _, _ in session.ended] == [0, 1]


def test_idle_vm_that_speaks_is_lost() -> None:
    """Messages that are never taken would fill the host's memory."""
    quiet = StandIn(lambda _: "")
    idle = StandIn(lambda _: "passed")
    idle.say("flood")
    with pytest.raises(NoVerdict, match="'flood'"):
        run_on([quiet, idle], ITEMS[:1])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("lost", "QEMU ended"),
        ("late", "no answer within its deadline"),
        ("unreachable", "the result channel broke"),
    ],
)
def test_loss_names_the_test_that_ran_there(how: str, words: str) -> None:
    with pytest.raises(NoVerdict, match=words) as error:
        run(ITEMS, lambda _: "passed", lambda item: how if item is ITEMS[17] else "passed")
    assert error.value.subject == "test_17"


@pytest.mark.parametrize(
    ("cpus", "vms_of_memory", "count"), [(1, 9, 1), (2, 9, 2), (64, 9, 2), (8, 1, 1), (8, 0, 1)]
)
def test_whole_suite_has_a_second_vm_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, cpus: int, vms_of_memory: int, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(guest_memory, "available", lambda: vms_of_memory * guest_memory.VM_SIZE)
    assert side_by_side.usual_count() == count
