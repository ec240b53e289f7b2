"""Tests in several VMs at a time, each in one of them.

One thread looks after all of them, so hooks and ledger see one report after the other.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import pytest

from . import memory
from .errors import NoVerdict
from .guest_tests import Running
from .schedule import Schedule
from .worker import Seen, Worker

# More were never measured.
_VMS = 2
_LOOK_S = 60.0

Item = TypeVar("Item", bound=pytest.Item)


def usual_count() -> int:
    """Return how many VMs run the whole suite here: one CPU for each, and memory for all."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(_VMS, cpus, memory.available() // memory.VM_SIZE))


def run(
    workers: Sequence[Worker],
    items: Sequence[Item],
    *,
    done: Callable[[Worker, Item, Seen], None],
    stopped: Callable[[], bool],
) -> None:
    """Run each of ``items`` on one of the workers, and call ``done`` when it has ended.

    When ``stopped`` says so no more is begun. NoVerdict when a VM is lost; its ``subject`` is the
    test that ran there.
    """
    schedule = Schedule(items, len(workers))
    running: dict[Worker, tuple[Item, Running]] = {}

    def begin(worker: Worker) -> None:
        given = None if stopped() else schedule.take(numbers[worker])
        if given is None:
            running.pop(worker, None)
            return
        with about(given[0]):
            running[worker] = given[0], worker.start(*given)

    numbers = {worker: number for number, worker in enumerate(workers)}
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.vm, selectors.EVENT_READ, worker)
            begin(worker)
        while running:
            limit = min(test.remaining_s for _, test in running.values())
            for key, _ in selector.select(min(max(limit, 0.0), _LOOK_S)):
                worker = key.data
                with about(running[worker][0]) if worker in running else nullcontext():
                    worker.vm.poll("test", 0)
            for worker, (item, test) in list(running.items()):
                with about(item):
                    outcome = test.look()
                    if outcome is None:
                        continue
                    seen = worker.see(outcome)
                # Between two tests of a guest stands as little as can be; a failure may be the end.
                if seen.passed:
                    try:
                        begin(worker)
                    finally:
                        done(worker, item, seen)
                else:
                    done(worker, item, seen)
                    begin(worker)


@contextmanager
def about(item: pytest.Item) -> Iterator[None]:
    """Let a NoVerdict that leaves the block say that it ended this test."""
    try:
        yield
    except NoVerdict as error:
        error.subject = item.nodeid
        raise
