# SPDX-License-Identifier: Apache-2.0
"""Each fault of the fixture ``driver`` is noticed, on a kernel of folders.

test_driver_fixture.py has the same in a guest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.faults import registry
from dma_rehearsal.guest.testkit import every_failure, hold_watcher
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.conditions import Condition
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal, RehearsalFailed
from dma_rehearsal.guest.testkit.hold_watcher import HoldWatcher
from dma_rehearsal.guest.testkit.session_platform import SessionPlatform
from dma_rehearsal.host_harness.verdict import driver_judge
from dma_rehearsal.host_harness.verdict.driver_mappings import DriverMappings
from dma_rehearsal.host_harness.verdict.driver_view import DriverView
from tests.inprocess.patched import patched
from tests.unit.guest.testkit.fake_kernel import FakeBoard, FakeKernel, FakeSession
from tests.unit.host_harness.driver_traces import Names, mapped, report, run, unmapped
from tests.unit.host_harness.traces import mark


class Rig:
    """A kernel of folders, and a driver of it whose remove() makes the kernel warn."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.kernel, self.session = FakeKernel(folder, patch), FakeSession()
        self.patch = patch

    def driver(self, **condition: Any) -> DriverRehearsal:
        return DriverRehearsal(cast("SessionPlatform", self.session), Condition(**condition))


def hooked(rig: Rig) -> bool:
    """Whether the function that the driver gets is the one that is watched."""
    with rig.driver()("my_driver") as bound:
        return f"function={bound.function} " in rig.kernel.log[0]


def refuses_a_wrong_announcement(rig: Rig) -> bool:
    """Whether the host objects to a test whose announcement is of another kind."""
    with rig.driver().expects(DriverReportKind.UNMAP_NENTS):
        pass
    events = [mark(1), mapped(), report("UNMAP_SIZE"), unmapped(), mark(2)]
    view = DriverView.of(events, DriverMappings())
    said = [run(), *rig.session.said]
    return bool(driver_judge.judge(view, said, (), Names()).objections)


def notices_a_vain_wait(rig: Rig) -> bool:
    """Whether the watcher is content with held DMA that it can let go."""
    rig.patch.setattr(hold_watcher, "only_this_runs", lambda: True)
    board = FakeBoard()
    watcher = HoldWatcher(board)
    board.held = 1
    for _ in range(30):
        watcher._look()
    if board.held:  # the device's patience has an end
        board.expired = 1
        watcher._look()
    try:
        watcher.check()
    except CheckFailed:
        return False
    return True


def each_call_fails(rig: Rig) -> bool:
    """Whether a body with a call that can fail passes as one in which each has failed."""
    driver = rig.driver(every_failure=True)

    def body() -> None:
        with driver("my_driver"):
            rig.kernel.call()

    try:
        every_failure.run(driver, body)
    except CheckFailed:
        return False
    return True


def sees_a_warning(rig: Rig) -> bool:
    """Whether a test fails when the kernel warns."""
    rig.kernel.remove = lambda: rig.kernel.messages.append("WARNING: CPU: 0 PID: 1 at my.c:1")
    try:
        with rig.driver()("my_driver"):
            pass
    except RehearsalFailed:
        return True
    return False


CHECKS: dict[str, Callable[[Rig], bool]] = {
    "rehearsal-not-hooked": hooked,
    "rehearsal-expects-all": refuses_a_wrong_announcement,
    "rehearsal-never-released": notices_a_vain_wait,
    "rehearsal-never-fails": each_call_fails,
    "rehearsal-warning-unseen": sees_a_warning,
}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", CHECKS)
def test_sound_fixture_passes(rig: Rig, name: str) -> None:
    assert CHECKS[name](rig)


@pytest.mark.fires("fault", neighbour="test_sound_fixture_passes")
@pytest.mark.parametrize("fault", [pytest.param(each, id=each) for each in CHECKS])
def test_fault_is_noticed(rig: Rig, fault: str) -> None:
    with patched("dma_rehearsal.guest", partial(registry.patch, fault)):
        assert not CHECKS[fault](rig)
