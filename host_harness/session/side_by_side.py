# SPDX-License-Identifier: Apache-2.0
"""Tests in several VMs at a time, each in one of them.

One thread looks after all of them, so hooks and ledger see one report after the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.session.agent_client import Running
from dma_rehearsal.host_harness.session.schedule import Schedule
from dma_rehearsal.host_harness.session.worker import Seen, Worker

# More were never measured.
_VMS = 2

Item = TypeVar("Item", bound=pytest.Item)


def usual_count() -> int:
    """Return how many VMs run the whole suite here: one CPU for each, and memory for all."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(_VMS, cpus, guest_memory.available() // guest_memory.VM_SIZE))


def run(
    workers: Sequence[Worker],
    items: Sequence[Item],
    *,
    done: Callable[[Worker, Item, Seen], None],
    stopped: Callable[[], bool],
) -> None:
    """Run each of ``items`` on one of the workers, and call ``done`` when it has ended.

    When ``stopped`` returns True, no more tests begin. NoVerdict when a VM is lost.
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
        # A wait for one VM polls all of them, and may have read another one's messages.
        unread = any(worker.vm.unread for worker in running)
        workers[0].vm.poll("test", 0.0 if unread else max(limit, 0.0))
        for worker in workers:
            if worker not in running:
                worker.vm.take("test")  # an idle guest must not fill our memory
        for worker, (item, test) in list(running.items()):
            outcome = test.look()
            if outcome is None:
                continue
            del running[worker]
            seen = worker.see(outcome)
            # After a pass the guest begins its next test first; a failure may end the run.
            if seen.passed:
                try:
                    begin(worker)
                finally:
                    done(worker, item, seen)
            else:
                done(worker, item, seen)
                begin(worker)
