"""Every fault of devices and driver, in one VM: set, noticed by the guest, cleared, gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from host_harness import guest_tests, options
from host_harness.errors import UsageError
from host_harness.faults import FAULTS, Fault, Place, find
from host_harness.guest_words import CollectedItem
from host_harness.payload import GuestTests
from host_harness.progress import Progress
from host_harness.report import Ledger
from host_harness.rig import Rig
from host_harness.vm import Vm

pytestmark = pytest.mark.vm

SWITCHABLE = [fault for fault in FAULTS if fault.switchable]
FILES = sorted({f"suite/{fault.tests}" for fault in SWITCHABLE})
SEED = 0x5EED
DRIVER = "/sys/module/dma_rehearsal/parameters/fault"


@dataclass
class OneVm:
    """A VM whose guest has collected the tests of all these faults, and runs any, any number of
    times.
    """

    vm: Vm
    items: Sequence[CollectedItem]
    config: pytest.Config
    ran: int = 0

    def of(self, fault: Fault) -> list[CollectedItem]:
        """The tests that look at the fault's promises."""
        return [item for item in self.items if item.nodeid.startswith(f"suite/{fault.tests}::")]

    def run(self, item: CollectedItem) -> Ledger:
        """Run one test; return what came of it."""
        # Any test may be next: what is shared by all files stays up, and no more.
        ends = self.items[0], self.items[-1]
        following = next(each for each in ends if each.path != item.path)
        outcome = guest_tests.run(self.vm, self.config, item.nodeid, following.nodeid)
        self.ran += 1
        ledger = Ledger()
        for report in outcome.reports:
            ledger.add_report(report, item.promises, witnessed=outcome.witnessed)
        return ledger

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        """Set a fault within the ``with``: by the device's control socket, or in the guest."""
        if fault.place is Place.DEVICE:
            self.vm.set_fault(fault.name)
        else:
            self._set_in_driver(fault.parameter.partition("=")[2])
        try:
            yield
        finally:
            if fault.place is Place.DEVICE:
                self.vm.set_fault(None)
            else:
                self._set_in_driver("")

    def _set_in_driver(self, name: str) -> None:
        source = f"open({DRIVER!r}, 'w').write({name!r} + chr(10))"
        done = self.vm.execute(["python3", "-c", source], timeout_s=30)
        assert done["status"] == 0, done


@pytest.fixture(scope="module")
def one_vm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneVm]:
    # One boot for all of them: it may take its time where many run at once.
    given = options.parse({"seed": str(SEED), "deadline": "kernel=300"})
    runs = tmp_path_factory.mktemp("runs")
    with Rig(given, Progress(quiet=True), runs) as rig:
        vm = rig.boot()
        tests = GuestTests(selected=tuple(FILES))
        collected = guest_tests.collect(vm, tests, seed=SEED, fault=None, iommu=False)
        made = OneVm(vm, collected.items, request.config)
        yield made
        vm.end_session(made.ran)
        vm.power_off()


@pytest.mark.parametrize("fault", SWITCHABLE, ids=lambda fault: fault.name)
def test_fault_is_noticed_and_gone(one_vm: OneVm, fault: Fault) -> None:
    """The message names the promise, and what the rule is that was broken."""
    failed: list[CollectedItem] = []
    broken: set[str] = set()
    said: list[str] = []
    with one_vm.fault(fault):
        for item in one_vm.of(fault):
            ledger = one_vm.run(item)
            found = {row.promise for row in ledger.promises if row.verdict == "broken"}
            if found & set(fault.promises) - broken:
                broken |= found
                failed.append(item)
                said += ledger.complaints()
            if broken >= set(fault.promises):
                break
    print(*said, sep="\n")
    assert broken >= set(fault.promises)
    for promise in fault.promises:
        assert any(line.startswith(f"broken: {promise}") for line in said)
    assert fault.words in "\n".join(said)
    for item in failed:
        ledger = one_vm.run(item)
        assert (ledger.passed, ledger.failed, ledger.objections()) == (1, 0, [])


def test_the_same_seed_reproduces_the_same_failure(one_vm: OneVm) -> None:
    """Of a case in which the seed decides which lines are evicted, and so what goes wrong."""
    fault = find("cache-snapshot-before-maintenance")
    (item,) = [each for each in one_vm.of(fault) if "test_chance_is_the_seed_s" in each.nodeid]
    with one_vm.fault(fault):
        first, second = one_vm.run(item), one_vm.run(item)
    assert first.failed == second.failed == 1
    assert "STORED_WHILE_DEVICE_OWNS" in first.complaints()[0]
    assert first.promises == second.promises


def test_fault_of_another_place_is_refused(one_vm: OneVm) -> None:
    guest = next(fault for fault in FAULTS if fault.place is Place.GUEST)
    with pytest.raises(UsageError, match=f"there is no fault '{guest.name}'"):
        one_vm.vm.set_fault(guest.name)
