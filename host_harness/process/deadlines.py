# SPDX-License-Identifier: Apache-2.0
"""Time limits of a run's phases. A deadline that passes ends the run without a verdict."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError

# Seconds; generous, for a loaded machine that emulates.
DEFAULTS_S: Mapping[str, float] = {
    "environment": 3600.0,  # with an empty cache and a slow network
    "device up": 20.0,
    "QEMU up": 30.0,
    "kernel": 90.0,
    "guest ready": 90.0,
    "collection": 120.0,
    "test": 120.0,
    "shutdown": 60.0,
    "kept": 12 * 3600.0,  # a VM that is kept, or has a shell
}


def parse(text: str, base: Mapping[str, float] = DEFAULTS_S) -> dict[str, float]:
    """Return the deadlines in seconds, those of ``text`` in place of ``base``'s.

    ``text`` is "PHASE=SECONDS", several of them separated by commas; 0 means no deadline.
    UsageError for a phase or number that does not exist.
    """
    deadlines = dict(base)
    for word in filter(None, (part.strip() for part in text.split(","))):
        phase, _, seconds = (part.strip() for part in word.partition("="))
        try:
            value = float(seconds)
        except ValueError:
            value = -1.0
        if phase not in DEFAULTS_S or not 0 <= value < math.inf:
            raise UsageError(
                f"DEADLINE: {word!r} is not PHASE=SECONDS",
                f"the phases are: {', '.join(DEFAULTS_S)}; 0 seconds mean no deadline",
            )
        deadlines[phase] = value or math.inf
    return deadlines


def none() -> dict[str, float]:
    """Return the deadlines of a VM that a debugger may stop: only the kept VM has one."""
    return {**dict.fromkeys(DEFAULTS_S, math.inf), "kept": DEFAULTS_S["kept"]}


def wait_limit(seconds: float) -> float | None:
    """Return a deadline as the calls of the standard library take it: None means forever."""
    return None if seconds == math.inf else seconds


@contextmanager
def alarm(phase: str, seconds: float) -> Iterator[None]:
    """Raise NoVerdict in the block when it takes longer; it works in the main thread only."""
    if seconds == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise NoVerdict(phase, f"not done within its deadline of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
