# SPDX-License-Identifier: Apache-2.0
"""The progress of a session's tests: a line for each VM, with the test that runs in it.

On a terminal the lines are live, in place of pytest's dots; failures are printed above them. Where
the output is not a terminal, one plain line comes now and then. With -v pytest has a line for each
test, and on a terminal no others come.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.process.screen import Screen
from dma_rehearsal.host_harness.verdict.ledger import Ledger

EVERY_S = 10  # seconds between two plain lines
_TEST_MAX = 60  # characters of a test's name in a plain line


class _Vm(Protocol):
    @property
    def subject(self) -> str:
        """The test that runs."""


class Running(Protocol):
    """What is asked of a worker: its VM, and how many tests it has run."""

    @property
    def vm(self) -> _Vm:
        """Its VM."""

    @property
    def ran(self) -> int:
        """The tests that it has run."""


class VmLines:
    """Says how far the tests of ``workers`` are; ``total`` is how many there are."""

    def __init__(
        self, progress: Progress, ledger: Ledger, workers: Sequence[Running], total: int
    ) -> None:
        self._progress = progress
        self._ledger = ledger
        self._workers = workers
        self._total = total
        self._begun: dict[int, tuple[str, float]] = {}  # the test of each VM, and since when
        self._said = time.monotonic()
        self.live = False

    @contextmanager
    def shown(self, *, verbose: bool) -> Iterator[None]:
        """Keep the lines on the terminal meanwhile; not if ``verbose``: pytest has its own then."""
        if verbose or not (self._progress.on_terminal and Screen.of(sys.stdout).live):
            yield
            return
        sys.stdout.flush()
        with self._progress.uncaptured(), self._progress.live(self.lines):
            self.live = True
            try:
                yield
            finally:
                self.live = False

    def failed(self, test: str, why: str, *, colours: bool) -> None:
        """Tell of a failure at once, above the live lines."""
        if self.live:
            self._progress.above(f"FAILED {test}: {why}", "bold red" if colours else "")

    def lines(self, width: int) -> list[str]:
        """Return the lines as they are now: all tests, then a line for each VM.

        The end of a test's name is shown, which tells tests apart.
        """
        now = time.monotonic()
        found = [f"{self._progress.stamp()} {self._counted()}"]
        for number, worker in enumerate(self._workers, 1):
            test = worker.vm.subject
            if self._begun.get(number, ("", 0.0))[0] != test:
                self._begun[number] = test, now
            since = now - self._begun[number][1] if test else 0.0
            took = f", {since:.0f} s" if since >= 1 else ""
            start = f"  VM {number}: {worker.ran} done{took}: "
            found.append(start + _short(test or "idle", width - len(start)))
        return found

    def plain(self) -> str | None:
        """Return the plain line, where it is time for one; None otherwise."""
        now = time.monotonic()
        if self.live or now - self._said < EVERY_S:
            return None
        self._said = now
        running = [
            f"VM {number}: {_short(test, _TEST_MAX)}"
            for number, worker in enumerate(self._workers, 1)
            if (test := worker.vm.subject)
        ]
        return "; ".join([f"{self._progress.stamp()} {self._counted()}", *running])

    def _counted(self) -> str:
        done = sum(worker.ran for worker in self._workers)
        bad = {"failed": self._ledger.failed, "errors": self._ledger.errors}
        others = "".join(f", {count} {name}" for name, count in bad.items() if count)
        return f"{done} of {self._total} tests{others}"


def _short(test: str, room: int) -> str:
    if len(test) <= room:
        return test
    return f"…{test[1 - room :]}" if room > 1 else ""
