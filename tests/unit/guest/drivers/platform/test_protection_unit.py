# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the protection unit, on the device's model; commands of several processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout import (
    DmaDirection,
    DmaReason,
    GrantDirection,
    Plat,
    ProtectionStatus,
)
from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE, MAIL_TAG_BASE
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.grants import PlatformEvidence
from dma_rehearsal.guest.drivers.platform.protection_unit import (
    Grant,
    GrantsExhausted,
    NoSuchGrant,
    ProtectionError,
    ProtectionFault,
    ProtectionUnit,
    Touched,
    process_owner,
)
from dma_rehearsal.guest.iobuffer.base.interfaces import Untouched
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from tests.unit.guest.drivers.platform.model_bar import ModelBar

IN, OUT = GrantDirection.IN, GrantDirection.OUT


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "LOCKS", tmp_path / "locks")
    return tmp_path / "locks"


@pytest.fixture
def bar() -> ModelBar:
    return ModelBar()


@pytest.fixture
def unit(bar: ModelBar) -> ProtectionUnit:
    control: Any = bar
    return ProtectionUnit(control, CommandLock("0000:00:03.0"), "0000:00:03.0")


def test_grants(unit: ProtectionUnit, bar: ModelBar) -> None:
    assert not unit.enabled
    unit.enabled = True
    assert unit.enabled
    first = unit.grant(0x1_0000_0000, 1 << 40, OUT, owner=7)
    with unit.granted(0x1000, 64, IN) as second:
        assert unit.grant_count == 2
        assert unit.owners() == [7, process_owner()]
        made = bar.unit._grants[second]
        assert (made.address, made.length, int(made.direction)) == (0x1000, 64, int(IN))
    assert bar.unit._grants[first].length == 1 << 40
    with pytest.raises(NoSuchGrant, match=f"grant {second}: NO_SUCH_GRANT"):
        unit.withdraw(second)
    assert unit.withdraw_owner(7) == 1
    assert unit.owners() == []
    unit.enabled = False
    assert not unit.enabled


def test_owners_at_both_ends(unit: ProtectionUnit) -> None:
    tags = [0, 1, (1 << 64) - 1]
    for tag in reversed(tags):
        unit.grant(0, 1, IN, tag)
    assert unit.owners() == tags


def test_mappings_of_a_kernel_driver_are_no_dead_processes(
    unit: ProtectionUnit, bar: ModelBar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not even asked for: there may be tens of thousands."""
    for tag in range(MAIL_TAG_BASE, MAIL_TAG_BASE + 3):
        unit.grant(0, 1, IN, MAIL_OWNER_BASE | tag)
    asked: list[int] = []
    next_owner = bar.unit.next_owner

    def noted(least: int) -> int:
        asked.append(least)
        return next_owner(least)

    monkeypatch.setattr(bar.unit, "next_owner", noted)
    assert unit.withdraw_dead() == 0
    assert asked == [1 << 63]
    assert unit.grant_count == 3


def test_refusals(unit: ProtectionUnit) -> None:
    for _ in range(4):
        unit.grant(0, 1, IN, 1)
    with pytest.raises(GrantsExhausted, match="grant of 1 bytes at 0x0, direction 1: FULL") as full:
        unit.grant(0, 1, IN, 1)
    assert full.value.status is ProtectionStatus.FULL
    for bad in ((-1, 1, 1, 0), (0, 1 << 64, 1, 0), (0, 1, 1 << 40, 0), (0, 1, 1, 1 << 64)):
        with pytest.raises(ProtectionError, match="BAD_ARGUMENT"):
            unit.grant(*bad)
    with pytest.raises(ProtectionError, match="BAD_ARGUMENT"):
        unit.withdraw_owner(-1)
    for identity in (-1, 0, 1 << 32):
        with pytest.raises(NoSuchGrant):
            unit.withdraw(identity)
    assert unit.grant_count == 4


def test_grants_for_one_function(unit: ProtectionUnit, bar: ModelBar) -> None:
    unit.enabled = True
    identity = unit.grant(0x2000, 16, OUT, 9, 0x20)
    assert bar.unit._grants[identity].function == 0x20
    assert bar.unit._grants[unit.grant(0x3000, 16, OUT)].function is None, "the next is for every"
    assert bar.unit.check(0x2000, 16, write=False, function=0x20) is None
    bar.unit.check(0x2000, 16, write=False, function=0x23)
    (fault,) = unit.faults()
    assert fault.nearest == Grant(identity, 0x2000, 16, OUT, 9, 0x20)
    assert (fault.reason, fault.function) == (DmaReason.PROTECTION_FUNCTION, 0x23)
    assert str(fault) == (
        "a read of 16 bytes at 0x2000 by 00:04.3 was denied: PROTECTION_FUNCTION from 0x2000 on; "
        "nearest grant: OUT, 16 bytes at 0x2000, owner 0x9, for 00:04.0 alone"
    )
    for bad in (-1, 1 << 16):
        with pytest.raises(ProtectionError, match=f"function {bad:#x}: BAD_ARGUMENT"):
            unit.grant(0x2000, 16, OUT, 9, bad)
    bar.answers[Plat.FAULT_FUNCTION] = 0x20
    with pytest.raises(PlatformDeviceError, match="0x20 does not name a function"):
        unit.faults()


def test_faults(unit: ProtectionUnit, bar: ModelBar) -> None:
    unit.enabled = True
    bar.unit.check(0x1000, 4, write=False)
    identity = unit.grant(0x2000, 16, OUT, 9)
    for index in range(3):
        bar.unit.check(0x2000, 32 + index, write=False)
    found = unit.faults()
    assert (unit.fault_count, unit.faults_lost) == (4, 1)
    nearest = Grant(identity, 0x2000, 16, OUT, 9)
    read, reason = DmaDirection.READ_MEMORY, DmaReason.PROTECTION_PAST_END
    assert found == [
        ProtectionFault(2 + index, 0x2000, 32 + index, read, reason, 0x2010, nearest)
        for index in range(3)
    ]
    assert str(found[0]) == (
        "a read of 32 bytes at 0x2000 was denied: PROTECTION_PAST_END from 0x2010 on; "
        "nearest grant: OUT, 16 bytes at 0x2000, owner 0x9"
    )
    assert unit.faults(3) == found[2:]
    assert unit.faults(4) == []


def test_fault_without_any_grant(unit: ProtectionUnit, bar: ModelBar) -> None:
    unit.enabled = True
    bar.unit.check((1 << 64) - 4, 4, write=True)
    (fault,) = unit.faults()
    assert fault.nearest is None
    assert str(fault).endswith("nearest grant: none is in force")
    assert (fault.address, fault.reason) == ((1 << 64) - 4, DmaReason.PROTECTION_OUTSIDE)


def test_fault_that_goes_while_it_is_read(unit: ProtectionUnit, bar: ModelBar) -> None:
    unit.enabled = True
    bar.unit.check(0, 4, write=True)
    bar.answers[Plat.FAULT_VALID] = 0
    assert unit.faults() == []


def test_faults_that_newer_ones_overwrite_while_they_are_read(
    unit: ProtectionUnit, bar: ModelBar, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit.enabled = True
    for address in range(3):
        bar.unit.check(address, 4, write=True)
    block = bar.block

    def overwritten(offset: int, length: int) -> bytes:
        if bar[Plat.FAULT_SELECT] == 2 and bar[Plat.FAULT_COUNT] == 3:
            bar.unit.check(3, 4, write=True)  # 1 goes, which was read
        return block(offset, length)

    monkeypatch.setattr(bar, "block", overwritten)
    assert [each.sequence for each in unit.faults()] == [2, 3]


@pytest.mark.parametrize(
    ("register", "value", "words"),
    [
        (Plat.FAULT_REASON, 0xFFFF, "fault 1: 65535"),
        (Plat.FAULT_DIRECTION, 5, "fault 1: 5"),
    ],
)
def test_fault_that_is_nonsense(
    unit: ProtectionUnit, bar: ModelBar, register: Plat, value: int, words: str
) -> None:
    unit.enabled = True
    bar.unit.check(0, 4, write=True)
    bar.answers[register] = value
    with pytest.raises(PlatformDeviceError, match=words):
        unit.faults()


def test_device_that_is_gone(unit: ProtectionUnit, bar: ModelBar) -> None:
    for register in Plat.PROTECTION_STATUS, Plat.GRANT_STATUS:
        bar.answers[register] = 0xFFFF_FFFF
    with pytest.raises(PlatformDeviceError, match="PROTECTION_STATUS reads 0xffffffff"):
        unit.grant(0, 1, IN)
    with pytest.raises(PlatformDeviceError, match="PROTECTION_STATUS reads 0xffffffff"):
        unit.withdraw(1)


def test_owner_of_a_process() -> None:
    assert process_owner() == process_owner(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tag = process_owner(child.pid)
        assert tag not in (process_owner(), child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match="has ended"):
            process_owner(child.pid)
    with pytest.raises(ProcessLookupError, match="no process"):
        process_owner(child.pid)


def grants(unit: ProtectionUnit, pipe: Connection) -> None:
    """In a child whose model is a copy: grant, and tell the owners."""
    unit.grant(1, 1, IN)
    pipe.send((unit.owners(), process_owner()))


def test_a_forked_child_grants_as_itself(unit: ProtectionUnit) -> None:
    context = multiprocessing.get_context("fork")
    unit.grant(0, 1, IN)
    ours, theirs = context.Pipe()
    child = context.Process(target=grants, args=(unit, theirs))
    child.start()
    assert ours.poll(10)
    owners, its_tag = ours.recv()
    assert sorted(owners) == sorted([process_owner(), its_tag])
    assert its_tag != process_owner()
    child.join(10)
    child.close()
    ours.close()
    theirs.close()


def test_grants_of_the_dead(unit: ProtectionUnit) -> None:
    """A tag without a process lives for ever, and so does one of a process that lives."""
    gone = process_owner() ^ 1 << 40  # another start time
    for tag in (3, process_owner(), gone, gone):
        unit.grant(0, 1, IN, tag)
    assert unit.withdraw_dead() == 2
    assert unit.owners() == [3, process_owner()]


# One command at a time.


def hold(pipe: Connection) -> None:
    with CommandLock("rig").held():
        pipe.send("held")
        pipe.poll(10)


@pytest.fixture
def holder() -> Iterator[tuple[Any, Connection]]:
    """Another process that holds the lock, and the pipe that lets it go on."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(theirs,))
    process.start()
    assert ours.poll(10)
    yield process, ours
    process.kill()
    process.join(10)
    process.close()
    ours.close()
    theirs.close()


def taken() -> threading.Event:
    done = threading.Event()

    def take() -> None:
        with CommandLock("rig").held():
            done.set()

    threading.Thread(target=take, daemon=True).start()
    return done


def test_others_wait(holder: tuple[Any, Connection]) -> None:
    _, pipe = holder
    done = taken()
    assert not done.wait(0.05)
    pipe.send("go on")
    assert done.wait(10)


def test_process_that_dies_lets_go(holder: tuple[Any, Connection]) -> None:
    process, _ = holder
    done = taken()
    process.kill()
    assert done.wait(10)


def test_no_command_within_a_command() -> None:
    """A finalizer that came here would wait for itself."""
    lock = CommandLock("rig")
    with lock.held(), pytest.raises(PlatformDeviceError, match="in the middle"), lock.held():
        pass
    with lock.held():
        pass


def test_lock_that_cannot_be_had(locks: Path) -> None:
    locks.write_text("no folder")
    with (
        pytest.raises(PlatformDeviceError, match="cannot open the lock file"),
        CommandLock("rig").held(),
    ):
        pass


def test_what_dma_touched(unit: ProtectionUnit, bar: ModelBar) -> None:
    assert unit.touched(0x1000, 64, IN) is None, "the unit is off"
    unit.enabled = True
    assert unit.touched(0x1000, 64, IN) == Touched(0, 0)
    bar.platform._protection._touched.note(0x1000, 16, 5, write=True)
    assert unit.touched(0x1000, 64, IN, since=4) == Touched(16, 16)
    assert unit.touched(0x1000, 16, IN, since=4) == Touched(16, 16)
    assert unit.touched(0x1000, 64, OUT, since=4) == Touched(0, 0)
    assert unit.touched(0x1000, 64, IN, since=5) == Touched(0, 0)
    with pytest.raises(ProtectionError, match="BAD_ARGUMENT"):
        unit.touched(-1, 64, IN)


def test_the_evidence_of_what_dma_left_out(unit: ProtectionUnit, bar: ModelBar) -> None:
    evidence, way = PlatformEvidence(unit), IODirection.kIODirectionIn
    assert evidence.untouched(0x1000, 64, way, 0) is None, "the unit is off"
    unit.enabled = True
    bar.platform._protection._touched.note(0x1000, 48, 5, write=True)
    assert evidence.untouched(0x1000, 64, way, 4) == Untouched(16, 48)
    assert evidence.untouched(0x1000, 48, way, 4) == Untouched(0, 48)
    with unit._lock.held():
        assert evidence.untouched(0x1000, 64, way, 4) is None, "in the midst of a command"
