# SPDX-License-Identifier: Apache-2.0
"""The host's verdict on the rig's tests: its own worker and ledger, with the devices' trace."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.session.agent_client import Outcome as Reported
from dma_rehearsal.host_harness.session.worker import Worker
from dma_rehearsal.host_harness.verdict import host_view
from dma_rehearsal.host_harness.verdict.device_trace import DeviceTrace
from dma_rehearsal.host_harness.verdict.failure_record import FailureRecord
from dma_rehearsal.host_harness.verdict.ledger import Ledger
from tests.inprocess.rig.machine import Machine
from tests.unit.host_harness.machine.saved_states import REGISTERS, SavingQemu


@dataclass
class RigVm:
    """The part of a VM that a worker needs. Nothing is sent: the tests run in this process."""

    machine: Machine
    sockets: Path
    folder: Path = Path()
    subject: str = ""
    deadlines: Counter[str] = field(default_factory=Counter)
    monitor: SavingQemu = field(default_factory=lambda: SavingQemu({0: REGISTERS}))

    def set_test(self, nodeid: str | None) -> None:
        """Name the test in each event from now on, as the control socket does."""
        self.machine.trace.test = nodeid

    def send(self, _phase: str, _message: object) -> None: ...


class Outcome:
    """The outcome of a run of the suite: a plugin that hands the reports to the host's code.

    ``late`` is what the host has against the run beside its tests.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.ledger = Ledger()
        self.failures = FailureRecord()
        self.late: list[tuple[str, str]] = []
        self._vm = RigVm(machine, folder)
        self._worker = Worker(cast("Vm", self._vm), iommu=False)
        self._worker._trace = cast("DeviceTrace", machine.trace)
        self._items: dict[str, pytest.Item] = {}
        self._reports: list[pytest.TestReport] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests, and with them the promises that they are marked with."""
        self._items = {item.nodeid: item for item in items}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Begin a test, as the host does before it has the guest run it."""
        self._worker.start(self._items[nodeid], None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand a test's reports to the host, as they would come over the channel."""
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Have the host judge the test."""
        reports, self._reports = self._reports, []
        host_view.check(reports[-1].user_properties)
        machine = self._vm.machine
        seen = self._worker.see(Reported(reports, machine.witnessed, (), machine.objections))
        machine.witnessed, machine.objections = False, []
        marks = self._items[nodeid].iter_markers("promise")
        self.ledger.add_test(seen.reports, [str(mark.args[0]) for mark in marks], seen.host)
        for each in seen.reports:
            self.failures.pytest_runtest_logreport(each)

    def end(self) -> None:
        """Take what came after the last test."""
        self._vm.set_test(None)
        self.late = [*self._worker.confirm(), *self._worker.late()]

    def write(self, folder: Path) -> None:
        """Write the files of a run's folder from which its page is made."""
        self.ledger.write(folder / "attestations.json", {"status": 1})
        (folder / "status").write_text("1\n")
        self.failures.write(folder)
        lines = map(json.dumps, self._vm.machine.trace.all_events)
        (folder / "device-trace.jsonl").write_text("".join(f"{line}\n" for line in lines))

    @property
    def broken(self) -> set[str]:
        """The promises that were broken."""
        return {row.promise for row in self.ledger.promises if row.verdict == "broken"}
