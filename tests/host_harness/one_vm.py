"""One VM for many faults: each set, noticed by the guest, cleared, gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from host_harness import dmar, guest_tests, options
from host_harness.faults import Fault, Place
from host_harness.guest_words import CollectedItem
from host_harness.payload import GuestTests
from host_harness.progress import Progress
from host_harness.report import Ledger
from host_harness.rig import Rig
from host_harness.vm import Vm

SEED = 0x5EED
_DRIVER = "/sys/module/dma_rehearsal/parameters/fault"


@dataclass
class OneSession:
    """A session of the guest's agent: it has collected some tests, and runs any, any number of
    times.
    """

    vm: Vm
    items: Sequence[CollectedItem]
    config: pytest.Config
    faults: dmar.DmarLog | None
    ran: int = 0

    def of(self, fault: Fault) -> list[CollectedItem]:
        """The tests that look at the fault's promises."""
        return [item for item in self.items if item.nodeid.startswith(f"suite/{fault.tests}::")]

    def run(self, item: CollectedItem) -> Ledger:
        """Run one test; return what came of it."""
        # Any test may be next: what is shared by all files stays up, and no more if it can be.
        others = [each for each in self.items if each.nodeid != item.nodeid]
        others.sort(key=lambda each: each.path == item.path)
        following = others[0].nodeid if others else None
        outcome = guest_tests.Running(self.vm, self.config, item.nodeid, following).wait()
        self.ran += 1
        told = dmar.Outcome()
        if self.faults:
            told = self.faults.await_all(dmar.expected(outcome.reports[-1].user_properties))
        ledger = Ledger()
        for report in outcome.reports:
            of_call = told if report.when == "call" else dmar.Outcome()
            ledger.add_report(
                report,
                item.promises,
                witnessed=outcome.witnessed,
                evidence=[str(each) for each in of_call.told],
                objection=of_call.complaint,
            )
        return ledger


@dataclass(frozen=True)
class Noticed:
    """What a fault broke: the promises, the tests that say so, and the lines of a run's end."""

    promises: set[str] = field(default_factory=set)
    items: list[CollectedItem] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def notice(session: OneSession, fault: Fault) -> Noticed:
    """Run the fault's tests until all its promises are broken; its message must name each."""
    found = Noticed()
    for item in session.of(fault):
        ledger = session.run(item)
        broken = {row.promise for row in ledger.promises if row.verdict == "broken"}
        if broken & set(fault.promises) - found.promises:
            found.promises.update(broken)
            found.items.append(item)
            found.said.extend(ledger.complaints())
        if found.promises >= set(fault.promises):
            break
    print(*found.said, sep="\n")
    assert found.promises >= set(fault.promises)
    for promise in fault.promises:
        assert any(line.startswith(f"broken: {promise}") for line in found.said)
    assert fault.words in "\n".join(found.said)
    return found


def check_gone(session: OneSession, noticed: Noticed) -> None:
    """Run the same tests again, which must pass with every promise kept."""
    for item in noticed.items:
        ledger = session.run(item)
        assert (ledger.passed, ledger.failed, ledger.objections()) == (1, 0, [])


@dataclass
class OneVm:
    """A VM in which session follows session."""

    vm: Vm
    config: pytest.Config
    iommu: bool

    @contextmanager
    def session(self, *files: str, fault: Fault | None = None) -> Iterator[OneSession]:
        """A session with the tests of ``files`` of the suite, and with a fault of the guest's."""
        tests = GuestTests(selected=tuple(f"suite/{each}" for each in files))
        name = fault.name if fault else None
        collected = guest_tests.collect([self.vm], tests, seed=SEED, fault=name, iommu=self.iommu)
        log = None
        if self.iommu:
            log = dmar.DmarLog(self.vm.folder / "console.log", self.vm.console.catch_up)
            log.take()  # what came before
        session = OneSession(self.vm, collected.items, self.config, log)
        yield session
        self.vm.end_session(session.ran)

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Set a fault that `Fault.switchable` speaks of within the ``with``."""
        self._set(fault, fault.name if fault.place is Place.DEVICE else fault.parameter)
        try:
            yield
        finally:
            self._set(fault, None)

    def _set(self, fault: Fault, name: str | None) -> None:
        """By the device's control socket, or in the guest."""
        if fault.place is Place.DEVICE:
            self.vm.set_fault(name)
            return
        value = (name or "").partition("=")[2]
        source = f"open({_DRIVER!r}, 'w').write({value!r} + chr(10))"
        done = self.vm.execute(["python3", "-c", source], timeout_s=30)
        assert done["status"] == 0, done


@contextmanager
def one_vm(config: pytest.Config, runs: Path, **settings: str) -> Iterator[OneVm]:
    """Boot a VM with these options of a run, for as long as the ``with`` lasts."""
    # One boot for all of them: it may take its time where many run at once.
    given = options.parse({"seed": str(SEED), "deadline": "kernel=300", **settings})
    with Rig(given, Progress(quiet=True), runs) as rig:
        yield OneVm(rig.boot(isolated=True), config, given.iommu)
        if rig.vm:
            rig.vm.power_off()
