# SPDX-License-Identifier: Apache-2.0
"""One VM of a session, the tests that it runs, and the host's view of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pytest

from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.session import walk_types
from dma_rehearsal.host_harness.session.agent_client import OBJECTIONS_MAX, Outcome, Running
from dma_rehearsal.host_harness.session.guest_protocol import Warned
from dma_rehearsal.host_harness.verdict import (
    cache_reports,
    dmar,
    driver_announcements,
    driver_judge,
    driver_promises,
    expected_refusals,
    host_view,
    refusals,
)
from dma_rehearsal.host_harness.verdict.caller_names import CallerNames
from dma_rehearsal.host_harness.verdict.device_trace import DeviceTrace
from dma_rehearsal.host_harness.verdict.driver_mappings import DriverMappings
from dma_rehearsal.host_harness.verdict.driver_view import DriverView
from dma_rehearsal.host_harness.verdict.evidence import (
    MODEL_FAILED,
    Event,
    Evidence,
    Grants,
    Request,
)
from dma_rehearsal.host_harness.verdict.host_view import HostView
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters

REGISTERS = "PAT and MTRRs"  # the name of an objection to the run
GUESTS_WORD = "PAT and MTRRs by the guest's word"
# The kernel may report a refusal when later tests already run.
_REMEMBERED = 256


class Named(Protocol):
    """The part of a test that a worker needs, such as a pytest.Item."""

    @property
    def nodeid(self) -> str:
        """Its node id."""

    @property
    def config(self) -> pytest.Config:
        """The session's configuration."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of one test: its reports and warnings, and the host's view of it."""

    reports: list[pytest.TestReport]
    host: HostView
    warnings: Sequence[Warned] = ()

    @property
    def passed(self) -> bool:
        """Whether the guest reports that the test passed, and the host does not object."""
        return all(report.passed for report in self.reports) and not self.host.objections


class Worker:
    """Runs tests in a VM, one after the other. ``ran`` counts them."""

    def __init__(self, vm: Vm, *, iommu: bool, names: CallerNames | None = None) -> None:
        """``names`` names the callers in a kernel driver's reports; None: by their addresses."""
        self.vm = vm
        self._names = names
        self._mappings = DriverMappings()
        self._untouched = driver_promises.Untouched()
        self._untold: list[str] = []  # objections to a driver while no test ran
        self.ran = 0
        self._iommu = iommu
        self._trace = DeviceTrace(vm.folder / "device-trace.jsonl")
        self._grants = Grants()
        self._newest: int | None = 0  # request in the trace
        self._missing: tuple[int, int] | None = None  # that it left out while no test ran
        self._full = False  # the trace: what later tests do is not in it
        self._between: list[Request] = []
        self._mistakes: list[str] = []
        self._announced: deque[Request] = deque(maxlen=_REMEMBERED)
        self._registers = SavedRegisters(vm.monitor, vm.sockets)
        self._dmar: dmar.DmarLog | None = None
        if iommu:
            self._dmar = dmar.DmarLog(vm.folder / "console.log", vm.console.catch_up)
            self._dmar.take()  # what firmware and boot did

    def start(self, item: Named, following: Named | None) -> Running:
        """Have the guest run a test; `see` must follow before the next one."""
        self._look_between()
        self.vm.set_test(item.nodeid)
        next_one = following.nodeid if following else None
        return Running(self.vm, item.config, item.nodeid, next_one, self._registers)

    def see(self, outcome: Outcome) -> Seen:
        """Return the result of the test that has just ended."""
        self.ran += 1
        events = self._events()
        evidence = self._evidence(events)
        last = outcome.reports[-1]  # it has the properties of all phases
        evidence.end(expected_refusals.counted(last.user_properties))
        self._newest = evidence.newest
        view = DriverView.of(events, self._mappings, evidence.refusals)
        driver = driver_judge.judge(view, last.user_properties, evidence.refusals, self._names)
        self._untouched.add(view.mappings)
        matched = host_view.match(evidence, last.user_properties, driver)
        faults = self._faults(last, matched.announced)
        others = [faults.complaint, *outcome.objections, *self._judge_walks(evidence)]
        of_driver = bool(driver_announcements.bindings(last.user_properties))
        if not of_driver and all(report.passed for report in outcome.reports):
            # One that failed has its own message.
            others.append(cache_reports.complaint(cache_reports.unowned(events)))
        host = host_view.look(
            evidence,
            last.user_properties,
            iommu=self._iommu,
            others=others,
            told=[str(each) for each in faults.told],
            witnessed=outcome.witnessed,
            guests_word=GUESTS_WORD if self._registers.unsaved else "",
            driver=driver,
            rows=driver_promises.rows(view.mappings, last.nodeid),
        )
        return Seen(outcome.reports, host, outcome.warnings)

    def confirm(self) -> list[tuple[str, str]]:
        """Return objections to the run if the CPUs' registers have changed; ask before its end."""
        if not self._registers.by_cpu:
            return []
        return [(REGISTERS, each) for each in self._look_at_registers()]

    def notes(self) -> list[str]:
        """Return what a reader of the verdict must know."""
        untouched = self._untouched.notes()
        if not self._registers.unsaved:
            return untouched
        return [
            *untouched,
            f"PAT and MTRRs are the guest's word in this run, since QEMU does not tell them: "
            f"{self._registers.unsaved}",
        ]

    def late(self) -> list[tuple[str, str]]:
        """Return the host's objections to the run outside its tests, by name; ask at its end."""
        full = self._full
        self._look_between()
        found = []
        if self._full and not full:
            found.append(("device trace", host_view.FULL))
        if self._missing:
            found.append(("device trace", host_view.GAP.format(*self._missing)))
        if self._mistakes:
            found.append(("cache reports", cache_reports.complaint(self._mistakes)))
        if self._between:
            words = refusals.complaint(self._between, ())
            found.append(("refused DMA", f"while no test ran: {words}"))
        if self._untold:
            found.append(("driver reports", f"while no test ran: {self._untold[0]}"))
        self._between, self._mistakes, self._missing, self._untold = [], [], None, []
        return found

    def _judge_walks(self, evidence: Evidence) -> list[str]:
        """Give the test's walks the types of the CPUs' registers; return objections."""
        wrong = []
        if (evidence.walks or evidence.tracked) and not self._registers.known:
            wrong += self._look_at_registers()
        if (registers := self._registers.common) is not None:
            evidence.walks, found = walk_types.by_registers(evidence.walks, registers)
            _, tracked = walk_types.by_registers(evidence.tracked, registers)
            wrong += [*found, *tracked][:OBJECTIONS_MAX]
        return wrong

    def _look_at_registers(self) -> list[str]:
        try:
            return self._registers.look()
        except MonitorError as error:
            raise self.vm.lost("test", f"QEMU's monitor, about the CPUs: {error}") from error

    def _look_between(self) -> None:
        """Read the events between tests: from the guest's fixtures, or from a device by itself."""
        events = self._events()
        found = self._evidence(events)
        view = DriverView.of(events, self._mappings)
        self._untold += driver_judge.judge(view, (), (), self._names).objections
        self._between += found.refusals
        self._missing = self._missing or found.missing
        self._mistakes += cache_reports.unowned(events)

    def _events(self) -> Sequence[Event]:
        """Return what came since the last call; NoVerdict when a model has failed meanwhile."""
        events = self._trace.take()
        if failed := next((each for each in events if each["event"] == MODEL_FAILED), None):
            during = f" during {failed['test']}" if failed.get("test") else ""
            raise self.vm.lost("test", f"a device's model failed{during}: {failed.get('text')}")
        return events

    def _evidence(self, events: Sequence[Event]) -> Evidence:
        found = Evidence.of(events, self._grants, self._newest)
        self._newest = found.newest
        self._full = found.full = self._full or found.full
        return found

    def _faults(
        self, last: pytest.TestReport, announced: Sequence[Request]
    ) -> dmar.FaultComparison:
        """Return the IOMMU's faults during a test, and attach them to its last report.

        junit.xml takes a test's properties from there.
        """
        if self._dmar is None:
            return dmar.FaultComparison()
        known = [*announced, *self._announced]
        self._announced += announced
        found = self._dmar.await_all(dmar.expected(last.user_properties), known)
        if found.told:
            text = "\n".join(map(str, found.told))
            last.user_properties.append(("IOMMU faults", text))
        return found
