"""One VM of a session of tests, and what the host sees of each test in it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from . import cache_reports, dmar
from .device_trace import DeviceTrace
from .guest_tests import Outcome, Running
from .vm import Vm


@dataclass(frozen=True, slots=True)
class Seen:
    """What the host saw of one test: its reports, whether a device did anything, what it says.

    ``mistakes`` are lines, for reports of the cache model that the test did not take.
    """

    reports: list[pytest.TestReport]
    witnessed: bool
    by_device: bool
    mistakes: list[str]
    faults: dmar.Outcome

    @property
    def passed(self) -> bool:
        """Whether the guest says that the test passed."""
        return all(report.passed for report in self.reports)


class Worker:
    """Runs tests in a VM, one after the other. ``ran`` counts them."""

    def __init__(self, vm: Vm, *, iommu: bool) -> None:
        self.vm = vm
        self.ran = 0
        self._trace = DeviceTrace(vm.folder / "device-trace.jsonl")
        self._dmar: dmar.DmarLog | None = None
        if iommu:
            self._dmar = dmar.DmarLog(vm.folder / "console.log", vm.console.catch_up)
            self._dmar.take()  # what firmware and boot did

    def start(self, item: pytest.Item, following: pytest.Item | None) -> Running:
        """Have the guest run a test; `see` must follow before the next one."""
        self._trace.take()
        self.vm.set_test(item.nodeid)
        return Running(self.vm, item.config, item.nodeid, following.nodeid if following else None)

    def see(self, outcome: Outcome) -> Seen:
        """Return what there is to see of the test that has just ended."""
        self.ran += 1
        events = self._trace.take()
        return Seen(
            outcome.reports,
            outcome.witnessed,
            by_device=bool(events),
            mistakes=cache_reports.unowned(events),
            faults=self._faults(outcome.reports),
        )

    def late_mistakes(self) -> list[str]:
        """Return what `Seen.mistakes` has of a test, for what came after the last one."""
        return cache_reports.unowned(self._trace.take())

    def _faults(self, reports: list[pytest.TestReport]) -> dmar.Outcome:
        """Return the IOMMU's faults during a test, and attach them to its last report."""
        if self._dmar is None:
            return dmar.Outcome()
        last = reports[-1]  # it has the properties of all phases, and junit.xml takes them from it
        found = self._dmar.await_all(dmar.expected(last.user_properties))
        if found.told:
            text = "\n".join(map(str, found.told))
            last.user_properties.append(("IOMMU faults", text))
        return found
