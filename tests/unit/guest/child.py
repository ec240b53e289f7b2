# SPDX-License-Identifier: Apache-2.0
"""A forked child that does one thing, and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_SECONDS = 60  # for one that hangs


def begin_child(work: Callable[[], None]) -> Callable[[], int]:
    """Fork, run ``work`` there, and return what waits for the exit status: 0 when it returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(_SECONDS)
            work()
            status = 0
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_child(work: Callable[[], None]) -> int:
    """Do ``work`` in a forked child, and return its exit status."""
    return begin_child(work)()
