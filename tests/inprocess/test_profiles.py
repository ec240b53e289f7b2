# SPDX-License-Identifier: Apache-2.0
"""The suite on devices with limits: green on strict ones, and each breach of a limit is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.profile import PLAIN, Profile
from dma_rehearsal.device.exerciser.transfer import Transfer
from dma_rehearsal.device.faults import IMPLEMENTATIONS, SOUND, DeviceFault
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.wrong import hasten, with_device

pytest_plugins = ["pytester"]

# The tests that depend on limits, without the long transfers; the matrix runs all of them.
SELECTED = (
    "test_profile or test_constraints or test_pool or test_ring or test_held or test_hostile or "
    "test_arm or test_device or (test_direction and (65 or odd)) or test_properties and (1 or 65)"
)
ROUGH = profile.parse(
    {
        "vendor": 0x1234,
        "device": 0x4321,
        "buffer": "16 KiB",
        "vectors": 3,
        "address_bits": 26,
        "alignment": 64,
        "length_alignment": 16,
        "boundary": "1 KiB",
        "max_segment": 960,
        "max_segments": 5,
        "max_transfer": "4 KiB",
        "coherent": False,
    },
    "rough",
)


@pytest.fixture
def rig(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> SuiteRunner:
    return SuiteRunner(pytester, monkeypatch)


# In each run of `make test`: the narrowest, one that is not coherent, one with lists, and ROUGH.
_GATE = ("isa-24", "soc-30", "nvme", "rough")


def with_profile(found: Profile, fault: DeviceFault = SOUND) -> type[Machine]:
    return type(found.name, (Machine,), {"profile": found, "fault": fault})


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(each, marks=() if each.name in _GATE else pytest.mark.full, id=each.name)
        for each in (*map(profile.find, profile.shipped()), ROUGH)
    ],
)
def test_suite_keeps_to_the_limits(rig: SuiteRunner, found: Profile) -> None:
    outcome = rig.run(with_profile(found), "-k", SELECTED)
    ledger = outcome.ledger
    assert outcome.late == []
    assert ledger.objections() == []
    assert ledger.failed == 0
    assert ledger.passed > 100


def test_what_no_limit_forbids_runs_under_all_of_them(rig: SuiteRunner) -> None:
    """The matrix has these tests once, without limits; their marks must be right all the same."""
    outcome = rig.run(with_profile(ROUGH), "-m", "any_device and not kernel")
    ledger = outcome.ledger
    assert outcome.late == []
    assert ledger.objections() == []
    assert ledger.failed == 0
    assert ledger.passed > 100


@pytest.mark.fires("fault", neighbour="test_suite_keeps_to_the_limits")
@pytest.mark.parametrize("name", ["isa-24", "soc-30", "nvme"])
@pytest.mark.parametrize("fault", ["mask-not-honoured", "address-wrapped", "boundary-crossed"])
def test_fault_breaks_constraints_of_a_profile_too(rig: SuiteRunner, name: str, fault: str) -> None:
    machine = with_profile(profile.find(name), IMPLEMENTATIONS[fault])
    assert "constraints" in rig.run(machine, "-k", "test_constraints").broken


@pytest.mark.fires("fault", neighbour="test_suite_keeps_to_the_limits")
@pytest.mark.parametrize("fault", ["coherence-forgotten", "non-coherent-snooped"])
def test_coherence_that_is_forgotten_is_found(rig: SuiteRunner, fault: str) -> None:
    machine = with_profile(profile.find("noncoherent-128"), IMPLEMENTATIONS[fault])
    assert rig.run(machine, "-k", "test_profile.py").broken == {"coherence"}


@pytest.mark.fires("promises", neighbour="test_suite_keeps_to_the_limits")
@pytest.mark.parametrize(
    ("values", "promises"),
    [
        ({"address_bits": 24}, {"constraints", "pool"}),
        ({"boundary": 1 << 16}, {"constraints"}),
        ({"alignment": 64}, {"constraints"}),
    ],
)
def test_sloppy_device_is_seen(
    rig: SuiteRunner, monkeypatch: pytest.MonkeyPatch, values: dict[str, int], promises: set[str]
) -> None:
    """It refuses nothing, and its records say where the bytes went instead."""
    hasten(monkeypatch)
    sloppy = profile.parse({**values, "sloppy": True}, "sloppy")
    outcome = rig.run(with_profile(sloppy), "-k", "own_limits or test_pool[")
    assert outcome.broken >= promises
    (row, *_) = [each for each in outcome.ledger.promises if each.verdict == "broken"]
    assert "bytes moved at 0x" in row.reason


class OtherDevice(Machine):
    """The device that is there is not the one that was announced."""

    announced = replace(PLAIN, max_segment=512)


@pytest.mark.fires("profile", neighbour="test_suite_keeps_to_the_limits")
def test_another_device_than_announced_is_found(rig: SuiteRunner) -> None:
    assert "profile" in rig.run(OtherDevice, "-k", "test_profile_is").broken


class Hasty(Exerciser):
    """Records another time than its profile's device would take."""

    def run(self, transfer: Transfer, *, held: bool = False) -> None:
        self.profile = replace(self.profile, latency_ns=350)
        super().run(transfer, held=held)


@pytest.mark.fires("modelled time", neighbour="test_suite_keeps_to_the_limits")
def test_wrong_modelled_time_is_found(rig: SuiteRunner) -> None:
    machine = with_device(Hasty)
    machine.profile = replace(PLAIN, latency_ns=700, bandwidth_mb_s=10)
    assert "modelled time" in rig.run(machine, "-k", "modelled_time").broken
