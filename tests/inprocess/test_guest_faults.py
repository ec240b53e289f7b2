# SPDX-License-Identifier: Apache-2.0
"""Each fault of the guest that needs no kernel is noticed by the guest's suite in this process."""

from __future__ import annotations

from functools import partial

import pytest

from dma_rehearsal.device.layout.faults import BY_NAME, FAULTS, Component, Fault
from dma_rehearsal.guest.agent.channel import Channel
from dma_rehearsal.guest.faults import channel, registry
from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests import kernel_faults
from tests.inprocess.patched import patched
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.wrong import hasten

pytest_plugins = ["pytester"]

SUITE = SOURCE / "dma_rehearsal" / "guest" / "suite"
_SOUND = "tests/inprocess/test_whole_suite.py::test_sound_devices"
PATCHED = [
    fault for fault in FAULTS if fault.component in (Component.ALLOCATOR, Component.MSR_READER)
]


@pytest.mark.fires(
    "fault",
    neighbour=_SOUND,
    without=kernel_faults.PROMISES,
)
@pytest.mark.parametrize(
    "fault",
    [each for each in PATCHED if each.name not in kernel_faults.ALLOCATOR],
    ids=lambda fault: fault.name,
)
def test_fault_breaks_its_promise(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    hasten(monkeypatch)
    broken: set[str] = set()
    complaints: list[str] = []
    for name in fault.tests:
        with patched("dma_rehearsal.guest", partial(registry.patch, fault.name)):
            ledger = SuiteRunner(pytester, monkeypatch).run(Machine, tests=SUITE / name).ledger
        broken.update(row.promise for row in ledger.promises if row.verdict == fault.verdict)
        complaints += ledger.complaints()
    assert broken >= set(fault.promises) - kernel_faults.PROMISES
    assert broken
    assert fault.message in "\n".join(complaints)


@pytest.mark.parametrize("name", ["allocator-double-release", "allocator-stale-mapping"])
def test_fault_breaks_no_promise_of_another_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The line of a release is the caller's, also where a fault has replaced the release."""
    hasten(monkeypatch)
    with patched("dma_rehearsal.guest", partial(registry.patch, name)):
        rig = SuiteRunner(pytester, monkeypatch)
        ran = rig.run(Machine, "-k", "made_and_released", tests=SUITE / "test_transfer_checks.py")
    assert {row.promise for row in ran.ledger.promises} == {"provenance"}
    assert not ran.broken


@pytest.mark.fires("teardown-fails", neighbour=_SOUND)
def test_a_teardown_that_fails_breaks_the_promise_of_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = BY_NAME["teardown-fails"]
    plugins = channel.apply(fault.name, Channel(0))
    (name,) = fault.tests
    rig = SuiteRunner(pytester, monkeypatch)
    assert rig.run(Machine, tests=SUITE / name, plugins=plugins).broken == set(fault.promises)


def test_the_list_of_those_that_need_a_kernel_names_faults() -> None:
    assert {fault.name for fault in FAULTS} >= kernel_faults.KERNEL
