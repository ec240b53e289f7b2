# SPDX-License-Identifier: Apache-2.0
"""Tests in several VMs at a time, each in one of them.

One thread looks after all of them, so hooks and ledger see one report after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from dma_rehearsal.host_harness.machine import memory_layout
from dma_rehearsal.host_harness.session.agent_client import Running
from dma_rehearsal.host_harness.session.schedule import Schedule
from dma_rehearsal.host_harness.session.worker import Seen, Worker

# More were never measured.
_VMS = 2

Item = TypeVar("Item", bound=pytest.Item)


def usual_count() -> int:
    """Return how many VMs run the whole suite here: one CPU for each, and memory for all."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(_VMS, cpus, memory_layout.available() // memory_layout.VM_SIZE))


def run(
    workers: Sequence[Worker],
    items: Sequence[Item],
    *,
    done: Callable[[Worker, Item, Seen], None],
    stopped: Callable[[], bool],
) -> None:
    """Run each of ``items`` on one of the workers, and call ``done`` when it has ended.

    When ``stopped`` says so no more is begun. NoVerdict when a VM is lost.
    """
    schedule = Schedule(items, len(workers))
    running: dict[Worker, tuple[Item, Running]] = {}

    def begin(worker: Worker) -> None:
        given = None if stopped() else schedule.take(workers.index(worker))
        if given:
            running[worker] = given[0], worker.start(*given)

    for worker in workers:
        begin(worker)
    while running:
        limit = min(test.remaining_s for _, test in running.values())
        # Whoever waits for one VM looks at all, and may have brought what another one says.
        unread = any(worker.vm.unread for worker in running)
        workers[0].vm.poll("test", 0.0 if unread else max(limit, 0.0))
        for worker in workers:
            if worker not in running:
                worker.vm.take("test")  # it has nothing to say, and must not fill our memory
        for worker, (item, test) in list(running.items()):
            outcome = test.look()
            if outcome is None:
                continue
            del running[worker]
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
