"""A guest without a VM: the guest's own code on the device's own code, in one process.

Between them stands a `Machine`. The whole suite runs here within seconds, so each of its checks can
be seen to fire.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import boot_words
import edu
import exerciser
import memory_types
import platform_command
import platform_device
import pytest
from suite import fixtures, kit, processors
from suite.attestation import SettingsPlugin
from suite.host import Host, HostPlugin

from device.layout import PLATFORM_DEVICE_ID
from host_harness import launch, verdict
from host_harness.evidence import Evidence, Grants
from host_harness.payload import SOURCE
from host_harness.report import HOST_SAW, Ledger
from tests.suite.edu import EduModel
from tests.suite.rig_function import Function
from tests.suite.rig_machine import PAT, Driver, Machine
from tests.suite.rig_trace import KeptTrace

MTRRS = memory_types.Mtrrs(def_type=0x806, ranges=(), fixed=(0,) * 11, physical_bits=40)


@dataclass
class Outcome:
    """What a run of the suite came to, by the guest's reports and the host's look at the trace."""

    trace: KeptTrace
    ledger: Ledger = field(default_factory=Ledger)
    _grants: Grants = field(default_factory=Grants)
    _marked: dict[str, list[str]] = field(default_factory=dict)
    _reports: list[pytest.TestReport] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand each test's reports to the host's ledger, as they would come over the channel."""
        self._reports.append(report)
        if report.when != "teardown":
            return
        evidence = Evidence.of(self.trace.take(), self._grants)
        host = verdict.look(evidence, report.user_properties)
        self.ledger.add_test(self._reports, self._marked[report.nodeid], host)
        self._reports = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the promises that the tests are marked with."""
        self._marked = {
            item.nodeid: [str(mark.args[0]) for mark in item.iter_markers("promise")]
            for item in items
        }

    @property
    def broken(self) -> set[str]:
        """The promises that were broken, beside what the host has against tests without one."""
        found = {row.promise for row in self.ledger.promises if row.verdict == "broken"}
        return found - {HOST_SAW}


class Rig:
    """Runs the guest's suite on machines."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._patch = monkeypatch

    def run(
        self,
        kind: type[Machine] = Machine,
        *args: str,
        seed: int = 7,
        tests: Path | None = None,
        plugins: Sequence[object] = (),
    ) -> Outcome:
        """Run the suite, or what ``args`` select of it, on a machine of this kind.

        ``tests``: a file of other guest tests in its place.
        """
        machine = kind(self._pytester.path)
        self._tests, self._plugins = tests or SOURCE / "guest" / "suite", plugins
        wait = exerciser.Interrupt.wait

        def wait_on(interrupt: exerciser.Interrupt, timeout: float) -> int:
            machine.go_on()
            return wait(interrupt, timeout)

        try:
            with self._patch.context() as patch:
                patch.setattr(exerciser.Interrupt, "wait", wait_on)
                return self._run(machine, args, seed)
        finally:
            machine.close()

    def _run(self, machine: Machine, args: tuple[str, ...], seed: int) -> Outcome:
        def find(_vendor: int, device: int, index: int = 0) -> Function | EduModel:
            if device == edu.EDU_DEVICE_ID:
                return machine.edus[index]
            if device == PLATFORM_DEVICE_ID:
                return Function(machine, machine.platform)
            return Function(machine, machine.peer if index else machine.exerciser)

        for module in exerciser, platform_device, fixtures:
            self._patch.setattr(module, "PciFunction", SimpleNamespace(find=find))
        self._patch.setattr(
            exerciser, "DriverFunction", lambda _: Function(machine, machine.exerciser)
        )
        self._patch.setattr(edu, "DriverFunction", lambda _: machine.edus[0])
        self._patch.setattr(kit, "Driver", lambda: Driver(machine))
        self._patch.setattr(platform_command, "LOCKS", self._pytester.path)
        self._patch.setattr(memory_types, "read_pat", lambda: PAT)
        self._patch.setattr(memory_types, "read_mtrrs", lambda: MTRRS)
        words = self._pytester.path / "cmdline"
        words.write_text(" ".join(launch.device_words(machine.announced or machine.profile)))
        self._patch.setattr(boot_words, "CMDLINE", words)
        online = self._pytester.path / "online"
        online.write_text(",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))))
        self._patch.setattr(processors, "ONLINE", online)
        outcome = Outcome(machine.trace)
        guest = SOURCE / "guest"
        self._pytester.inline_run(
            *("-c", os.devnull, "--rootdir", str(guest), "--import-mode=importlib"),
            # The rest is not looked at here, and costs more than the tests do.
            *("-p", "no:terminal", "-p", "no:hypothesispytest", "--assert=plain"),
            *("-p", "no:cacheprovider", "--strict-markers", "-m", "not kernel"),
            *(str(self._tests), *args),
            plugins=[
                *(fixtures, SettingsPlugin(seed), outcome, *self._plugins),
                HostPlugin(cast("Host", machine.host(machine))),
            ],
        )
        return outcome
