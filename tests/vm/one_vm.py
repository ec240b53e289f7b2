# SPDX-License-Identifier: Apache-2.0
"""One VM for many faults: each set, noticed by the guest, cleared, gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.faults import Fault
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import agent_client
from dma_rehearsal.host_harness.session.guest_protocol import CollectedItem
from dma_rehearsal.host_harness.session.guest_states import StartKind
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.worker import Worker
from dma_rehearsal.host_harness.verdict.ledger import Ledger

SEED = 0x5EED
_DRIVER = "/sys/module/dma_rehearsal/parameters/fault"


@dataclass(frozen=True)
class One:
    """A test, as a worker needs it."""

    nodeid: str
    config: pytest.Config


@dataclass
class OneSession:
    """A session of the guest's agent: it has collected some tests, and runs any, any number of
    times.
    """

    worker: Worker
    items: Sequence[CollectedItem]
    config: pytest.Config

    def of(self, fault: Fault) -> list[CollectedItem]:
        """Return the tests that check the fault's promises."""
        files = tuple(f"suite/{each}::" for each in fault.tests)
        return [item for item in self.items if item.nodeid.startswith(files)]

    def run(self, item: CollectedItem) -> Ledger:
        """Run one test; return what came of it."""
        # Any test may be next: what is shared by all files stays up, and no more if it can be.
        others = [each for each in self.items if each.nodeid != item.nodeid]
        others.sort(key=lambda each: each.path == item.path)
        following = One(others[0].nodeid, self.config) if others else None
        running = self.worker.start(One(item.nodeid, self.config), following)
        seen = self.worker.see(running.wait())
        ledger = Ledger()
        ledger.add_test(seen.reports, item.promises, seen.host)
        return ledger


@dataclass(frozen=True)
class Noticed:
    """A fault's effect: the promises, the tests that report it, and the last lines of the run."""

    promises: set[str] = field(default_factory=set)
    items: list[CollectedItem] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def notice(session: OneSession, fault: Fault) -> Noticed:
    """Run the fault's tests until all its promises have its verdict; its message names each."""
    found = Noticed()
    for item in session.of(fault):
        missing = {*fault.promises} - found.promises
        if not item.nodeid.startswith(f"suite/{fault.tests[0]}::") and not missing & {
            *item.promises
        }:
            continue
        ledger = session.run(item)
        told = {row.promise for row in ledger.promises if row.verdict == fault.verdict}
        if told & set(fault.promises) - found.promises:
            found.promises.update(told)
            found.items.append(item)
            found.said.extend(ledger.complaints())
        if found.promises >= set(fault.promises):
            break
    print(*found.said, sep="\n")
    assert found.promises >= set(fault.promises)
    for promise in fault.promises:
        assert any(line.startswith(f"{fault.verdict}: {promise}") for line in found.said)
    assert fault.message in "\n".join(found.said)
    return found


def check_gone(session: OneSession, noticed: Noticed) -> None:
    """Run the same tests again, which must pass with every promise kept."""
    for item in noticed.items:
        ledger = session.run(item)
        sound = ledger.passed, ledger.failed, ledger.objections()
        assert sound == (1, 0, []), ledger.complaints()


@dataclass
class OneVm:
    """A VM in which session follows session."""

    vm: Vm
    config: pytest.Config
    iommu: bool
    start: StartKind = StartKind.COLD

    @contextmanager
    def session(self, *files: str, fault: Fault | None = None) -> Iterator[OneSession]:
        """A session with the tests of ``files`` of the suite, and with a fault of the guest's."""
        tests = GuestTests(selected=tuple(f"suite/{each}" for each in files))
        name = fault.name if fault else None
        request = agent_client.Request(tests, fault=name, iommu=self.iommu)
        collected = agent_client.collect([self.vm], request, SEED)
        session = OneSession(Worker(self.vm, iommu=self.iommu), collected.items, self.config)
        yield session
        self.vm.end_session(session.worker.ran)

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Set a fault that `Fault.switchable` speaks of within the ``with``."""
        self._set(fault, fault.name if fault.component.in_device else fault.parameter)
        try:
            yield
        finally:
            self._set(fault, None)

    def _set(self, fault: Fault, name: str | None) -> None:
        """By the device's control socket, or in the guest."""
        if fault.component.in_device:
            self.vm.set_fault(name)
            return
        value = (name or "").partition("=")[2]
        source = f"open({_DRIVER!r}, 'w').write({value!r} + chr(10))"
        done = self.vm.execute(["python3", "-c", source], timeout_s=30)
        assert done["status"] == 0, done


@contextmanager
def one_vm(config: pytest.Config, runs: Path, **settings: str) -> Iterator[OneVm]:
    """Start a VM with these options of a run, for as long as the ``with`` lasts.

    With ``state="booted"`` it is restored, where a state can be had.
    """
    # One boot for all of them: it may take its time where many run at once.
    given = run_options.parse({"seed": str(SEED), "deadline": "kernel=300", **settings})
    for saved_before in (False, True):
        with Run(given, Progress(quiet=True), runs) as run:
            vm = run.boot(isolated=True)
            kind = run.start.kind if run.start else StartKind.COLD
            if kind is StartKind.COLD and given.state == run_options.BOOTED and not saved_before:
                continue  # this one has saved the state for the next
            yield OneVm(vm, config, given.iommu, kind)
            if run.vm:
                run.vm.power_off()
            return
