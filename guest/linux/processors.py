# SPDX-License-Identifier: Apache-2.0
"""The guest's CPUs, on which the suite places its own processes and threads.

The harness isolates all CPUs but the first from the scheduler (Linux, kernel-parameters, isolcpus).
So two processes run at once only where a test wants it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

ONLINE = Path("/sys/devices/system/cpu/online")  # Linux, cputopology: as 0-1,3

_libc = ctypes.CDLL(None)


def online() -> list[int]:
    """Return the numbers of the online CPUs, isolated ones included."""
    cpus: list[int] = []
    for part in ONLINE.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def place(number: int) -> None:
    """Run the calling thread, and what it starts, on the CPU at this index of `online`.

    An index past the end wraps around.
    """
    cpus = online()
    os.sched_setaffinity(0, {cpus[number % len(cpus)]})


def run_on_each() -> None:
    """Return when each CPU has taken its pending interrupts.

    The calling thread runs on each CPU in turn, and a CPU takes its interrupts before it runs
    the thread.
    """
    allowed = os.sched_getaffinity(0)
    for cpu in online():
        os.sched_setaffinity(0, {cpu})
    os.sched_setaffinity(0, allowed)


def current() -> int:
    """Return the index in `online` of the CPU that runs the calling thread (sched_getcpu(3))."""
    return online().index(_libc.sched_getcpu())
