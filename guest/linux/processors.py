# SPDX-License-Identifier: Apache-2.0
"""The guest's CPUs, on which the suite places its own processes and threads.

The harness isolates all but the first from the scheduler (Linux, kernel-parameters, isolcpus), so
that two run at once where a test wants it, and nowhere else.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

ONLINE = Path("/sys/devices/system/cpu/online")  # Linux, cputopology: as 0-1,3

_libc = ctypes.CDLL(None)


def online() -> list[int]:
    """Return the numbers of the CPUs that are in use, whoever may run there by himself."""
    cpus: list[int] = []
    for part in ONLINE.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def place(number: int) -> None:
    """Have the calling thread, and what it starts, run on the CPU of this place in `online`.

    Places are counted modulo all.
    """
    cpus = online()
    os.sched_setaffinity(0, {cpus[number % len(cpus)]})


def run_on_each() -> None:
    """Return when each CPU has taken the interrupts that were pending for it.

    It took them before it ran the calling thread.
    """
    allowed = os.sched_getaffinity(0)
    for cpu in online():
        os.sched_setaffinity(0, {cpu})
    os.sched_setaffinity(0, allowed)


def current() -> int:
    """Return the place in `online` of the CPU that the calling thread runs on (sched_getcpu(3))."""
    return online().index(_libc.sched_getcpu())
