# SPDX-License-Identifier: Apache-2.0
"""A session whose guest is made up: `guest_run FAILING WAITING ARGUMENTS`, in an empty folder.

It has nine tests. Those whose numbers are in FAILING fail, and the one that is WAITING (-: none)
waits for a line from the terminal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import vm_lines
from dma_rehearsal.host_harness.session.guest_protocol import CollectedItem
from dma_rehearsal.host_harness.session.guest_session import GuestItem, GuestSession
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.worker import Seen
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.host_view import HostView
from tests.unit.host_harness import traces

TESTS = 9
NAME = "suite/test_made_up_for_the_terminal.py::test_of_a_guest[{}]"
WHY = "exerciser: a write of 64 bytes at 0xc010000 was refused: PROTECTION_DIRECTION"


class Vm:
    subject = ""


class Worker:
    """Runs a test at once."""

    def __init__(self) -> None:
        self.vm = Vm()
        self.ran = 0

    def start(self, item: GuestItem, _following: object) -> Worker:
        self.vm.subject = item.nodeid
        self._item = item
        return self

    def wait(self) -> GuestItem:
        if str(self.ran) == WAITING:
            with Path("/dev/tty").open() as terminal:  # pytest has put standard input aside
                terminal.readline()
        return self._item

    def see(self, item: GuestItem) -> Seen:
        failed = str(self.ran) in FAILING
        self.ran += 1
        self.vm.subject = ""
        reports = [
            pytest.TestReport(item.nodeid, item.location, {}, "passed", None, when)
            for when in ("setup", "call", "teardown")
        ]
        if not failed:
            return Seen(reports, HostView())
        evidence = Evidence.of([traces.request(1, reason="PROTECTION_DIRECTION", moved=0)])
        words = f"{WHY}\n  there: made at suite/test_mine.py:5\n  next: turn it round"
        return Seen(reports, HostView(evidence, objections=(words,)))


class Session(GuestSession):
    """Has the made-up guest in place of VMs."""

    def pytest_sessionstart(self) -> None:  # type: ignore[override]
        self._workers: Any = [Worker()]
        self.run.open_folder()

    def pytest_sessionfinish(self, exitstatus: int) -> None:  # type: ignore[override]
        self.run.conclude(Status.FAILED if exitstatus else Status.PASSED)

    def pytest_report_header(self) -> None:  # type: ignore[override]
        return None

    def _collect(self, session: pytest.Session) -> list[pytest.Item]:
        return [
            GuestItem.from_parent(
                session,
                name=f"test_of_a_guest[{number}]",
                nodeid=NAME.format(number),
                guest=CollectedItem(
                    NAME.format(number),
                    "suite/test_made_up_for_the_terminal.py",
                    3,
                    f"test_of_a_guest[{number}]",
                    (),
                    (),
                    (),
                ),
            )
            for number in range(TESTS)
        ]


if __name__ == "__main__":
    FAILING, WAITING, *arguments = sys.argv[1:]
    if not sys.stdout.isatty():
        vm_lines.EVERY_S = 0
    with Run(run_options.parse({}), Progress(), Path("runs")) as run:
        # The host's part of the session is this folder, which has no tests.
        own = ["-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "."]
        code = pytest.main([*own, *arguments], [Session(run)])
        print("\n".join(run.verdict()))
    sys.exit(code)
