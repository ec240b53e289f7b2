# SPDX-License-Identifier: Apache-2.0
"""Faults that share a VM with others: each is set, noticed by the guest, cleared, and gone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from _pytest.mark import ParameterSet

from dma_rehearsal.device.layout.faults import Component
from dma_rehearsal.host_harness.faults import FAULTS, Fault, find
from dma_rehearsal.host_harness.process.errors import NoVerdict, UsageError
from dma_rehearsal.host_harness.session.guest_states import StartKind
from dma_rehearsal.host_harness.verdict.ledger import Ledger
from tests import kernel_faults
from tests.comparison import masked
from tests.vm.one_vm import Noticed, OneSession, OneVm, check_gone, notice, one_vm

SWITCHABLE = [fault for fault in FAULTS if fault.switchable and not fault.options]
OF_A_SESSION = [fault for fault in FAULTS if fault.of_a_session and not fault.options]
IOMMU = [
    fault
    for fault in FAULTS
    if (fault.switchable or fault.of_a_session) and fault.options == {"iommu": "intel"}
]


def _gate() -> set[str]:
    """Return the names of the faults in `make test`.

    They are the driver's, those that only a kernel shows, and of the others the first for each set
    of files of the guest's tests.
    """
    first: dict[tuple[str, ...], str] = {}
    for fault in SWITCHABLE:
        if fault.component.in_device:
            first.setdefault(fault.tests, fault.name)
    driver = {fault.name for fault in SWITCHABLE if fault.component is Component.DRIVER}
    at_collection = {fault.name for fault in OF_A_SESSION if fault.at_collection}
    return {*first.values(), *driver, *at_collection, *kernel_faults.KERNEL, "allocator-misaligned"}


def marked(faults: Sequence[Fault]) -> list[ParameterSet]:
    """Return the faults as parameters: those outside the gate are for `make test-all`."""
    gate = _gate()
    return [
        pytest.param(fault, marks=() if fault.name in gate else pytest.mark.full, id=fault.name)
        for fault in faults
    ]


# Values of STATE. A guest that boots cold comes second, and must notice each fault alike.
STARTS = [
    pytest.param("booted", id="restored"),
    pytest.param("no", id="cold", marks=pytest.mark.full),
]


@pytest.fixture(scope="module", params=STARTS)
def plain_vm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneVm]:
    with one_vm(request.config, tmp_path_factory.mktemp("runs"), state=request.param) as made:
        yield made


@pytest.fixture(scope="module", params=STARTS)
def iommu_vm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OneVm]:
    runs = tmp_path_factory.mktemp("runs")
    with one_vm(request.config, runs, state=request.param, iommu="intel") as made:
        yield made


class Told:
    """The words about each fault of the VM that met it first."""

    def __init__(self) -> None:
        self._words: dict[str, tuple[StartKind, list[str]]] = {}

    def check_alike(self, vm: OneVm, fault: Fault, noticed: Noticed) -> None:
        """Check that another VM notices the fault by the same tests, in the same words."""
        words = [*(item.nodeid for item in noticed.items), *map(masked, noticed.said)]
        start, before = self._words.setdefault(fault.name, (vm.start, words))
        assert before == words, f"{start.words}, and {vm.start.words}"
        if vm.start is StartKind.COLD:
            assert start is not vm.start or before is words, "two that booted cold prove nothing"


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="class")
def session(plain_vm: OneVm) -> Iterator[OneSession]:
    with plain_vm.session(*sorted({name for fault in SWITCHABLE for name in fault.tests})) as begun:
        yield begun


def without_addresses(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Return what came of a test; where its buffers were is another place each time."""
    return [
        (row.promise, row.verdict, re.sub("0x[0-9a-f]+", "0x", row.reason))
        for row in ledger.promises
    ]


class TestSwitchable:
    """Faults of devices and driver, set and cleared in the middle of one session."""

    @pytest.mark.fires("fault")
    @pytest.mark.parametrize("fault", marked(SWITCHABLE))
    def test_fault_is_noticed_and_gone(
        self, plain_vm: OneVm, session: OneSession, fault: Fault, told: Told
    ) -> None:
        """The message names the promise, and what the rule is that was broken."""
        with plain_vm.fault(fault):
            noticed = notice(session, fault)
        check_gone(session, noticed)
        told.check_alike(plain_vm, fault, noticed)

    def test_the_same_seed_reproduces_the_same_failure(
        self, plain_vm: OneVm, session: OneSession
    ) -> None:
        """Of a case in which the seed decides which lines are evicted, and so what goes wrong."""
        fault = find("cache-snapshot-before-maintenance")
        tests = session.of(fault)
        (item,) = [each for each in tests if "test_chance_is_the_seed_s" in each.nodeid]
        with plain_vm.fault(fault):
            first, second = session.run(item), session.run(item)
        assert first.failed == second.failed == 1
        assert "STORED_WHILE_DEVICE_OWNS" in first.complaints()[0]
        assert without_addresses(first) == without_addresses(second)

    def test_fault_of_another_place_is_refused(self, plain_vm: OneVm) -> None:
        guest = next(fault for fault in FAULTS if fault.component.in_guest)
        with pytest.raises(UsageError, match=f"there is no fault '{guest.name}'"):
            plain_vm.vm.set_fault(guest.name)


def _noticed_and_gone(vm: OneVm, fault: Fault, told: Told) -> None:
    """One session with the fault, one without."""
    if fault.at_collection:
        with pytest.raises(NoVerdict, match=fault.message), vm.session(*fault.tests, fault=fault):
            pass
        vm.vm.end_session(0)
        with vm.session(*fault.tests) as sound:
            assert sound.items
        return
    if fault.of_a_session:
        with vm.session(*fault.tests, fault=fault) as faulty:
            noticed = notice(faulty, fault)
    else:
        with vm.fault(fault), vm.session(*fault.tests) as faulty:
            noticed = notice(faulty, fault)
    with vm.session(*fault.tests) as sound:
        check_gone(sound, noticed)
    told.check_alike(vm, fault, noticed)


@pytest.mark.fires("fault")
@pytest.mark.parametrize("fault", marked(OF_A_SESSION))
def test_fault_of_the_guest_is_noticed_and_gone(plain_vm: OneVm, fault: Fault, told: Told) -> None:
    _noticed_and_gone(plain_vm, fault, told)


@pytest.mark.fires("fault")
@pytest.mark.parametrize("fault", IOMMU, ids=lambda fault: fault.name)
def test_fault_behind_an_iommu_is_noticed_and_gone(
    iommu_vm: OneVm, fault: Fault, told: Told
) -> None:
    _noticed_and_gone(iommu_vm, fault, told)
