# SPDX-License-Identifier: Apache-2.0
"""The guest's side of an IOMMU's faults: read from the kernel's log, no more than Linux tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.drivers.vfio import Container
from dma_rehearsal.guest.faults import iommu as iommu_faults
from dma_rehearsal.guest.faults import registry
from dma_rehearsal.guest.session import LEFT_OUT, SessionSettings, SettingsPlugin
from dma_rehearsal.guest.testkit import iommu, marks
from dma_rehearsal.guest.testkit.iommu import KernelLog

FAULT = (
    "3,531,30743594,-;DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x111000 "
    "[fault reason 0x05] PTE Write access is not set\n"
)

pytest_plugins = ["pytester"]


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.sleep", made.sleep)
    return made


@pytest.fixture
def log(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelLog]:
    """A log that is a FIFO: it has records when somebody writes them."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    monkeypatch.setattr(iommu, "KERNEL_LOG", path)
    monkeypatch.setattr("os.lseek", lambda *_: 0)
    with KernelLog(clock) as opened:
        yield opened


def test_three_faults_in_five_seconds(log: KernelLog, clock: Clock) -> None:
    for _ in range(3):
        log.pace()
    assert clock.slept == []
    clock.now += 2
    log.pace()
    assert clock.slept == [pytest.approx(3.2)]
    log.pace()
    log.pace()
    clock.now += 6
    log.pace()
    assert len(clock.slept) == 1


@pytest.mark.parametrize(
    ("address", "write", "told"),
    [(0x111008, True, True), (0x111008, False, False), (0x112000, True, False)],
)
def test_the_fault_that_is_waited_for(
    log: KernelLog, tmp_path: Path, address: int, write: bool, told: bool
) -> None:
    writer = os.open(tmp_path / "kmsg", os.O_WRONLY)
    os.write(writer, FAULT.encode())
    found = log.await_fault(address, write=write, timeout=0.01)
    os.close(writer)
    assert found == (FAULT.partition(";")[2].rstrip() if told else "")


TESTS = """
    import pytest

    def test_plain(): pass

    @pytest.mark.iommu
    def test_behind(): pass

    @pytest.mark.iommu_too
    def test_anywhere(): pass

    @pytest.fixture
    def driver(): pass

    def test_of_a_driver(driver): pass
    """
BOTH = {"test_anywhere", "test_of_a_driver"}


@pytest.mark.parametrize(
    ("behind", "selected"),
    [(False, {"test_plain", *BOTH}), (True, {"test_behind", *BOTH})],
)
def test_marks_say_which_machine_a_test_is_for(
    pytester: pytest.Pytester, behind: bool, selected: set[str]
) -> None:
    pytester.makepyfile(TESTS)
    settings = SettingsPlugin(SessionSettings(1, behind_iommu=behind))
    done = pytester.inline_run("--strict-markers", plugins=[settings, marks])
    assert {each.nodeid.partition("::")[2] for each in done.getreports() if each.passed} >= selected
    done.assertoutcome(passed=3)
    (call,) = done.getcalls("pytest_deselected")
    (left_out,) = call.items
    assert left_out.name not in selected
    assert "IOMMU" in left_out.stash[LEFT_OUT]


@pytest.mark.parametrize(("read", "write"), [(True, False), (False, True)])
def test_fault_of_the_permission(monkeypatch: pytest.MonkeyPatch, read: bool, write: bool) -> None:
    asked: list[object] = []

    def mapped(*_: object, read: bool, write: bool, **__: object) -> None:
        asked.append((read, write))

    monkeypatch.setattr(Container, "map", mapped)
    monkeypatch.setattr(iommu_faults, "_map", mapped)
    registry.patch("driver-wrong-cache")
    Container.map(None, 0, 0, read=read, write=write)  # type: ignore[arg-type]
    registry.patch("iommu-wrong-permission")
    Container.map(None, 0, 0, read=read, write=write)  # type: ignore[arg-type]
    assert asked == [(read, write), (True, True)]


def test_fault_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Container, "set_mask", Container.set_mask)  # to be put back
    registry.patch("iommu-mask-ignored")
    Container.set_mask(None, -1)  # type: ignore[arg-type]
