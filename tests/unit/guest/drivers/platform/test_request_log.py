# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the request log, on the device's model, and a device that lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaDirection, DmaReason, Plat
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.guest.drivers.platform import command
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.request_log import RefusedRequest, RequestLog
from tests.unit.device.fakes import BASE, SIZE, FakeClient, dma
from tests.unit.guest.drivers.platform.model_bar import ModelBar


class Logged:
    """A log, and an exerciser whose requests come into it."""

    def __init__(self) -> None:
        self.bar = ModelBar()
        self.exerciser = Exerciser(Trace())
        self.exerciser.bus.interconnect = self.bar.platform.interconnect
        self.exerciser.attach(FakeClient())
        self.exerciser.region_write(7, 4, b"\x06\x00")
        control: Any = self.bar
        self.log = RequestLog(control, CommandLock("0000:00:03.0"), "0000:00:03.0")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logged:
    monkeypatch.setattr(command, "LOCKS", tmp_path / "locks")
    return Logged()


def test_what_was_refused_since(rig: Logged) -> None:
    assert (rig.log.count, rig.log.refused_count, rig.log.refused()) == (0, 0, [])
    dma(rig.exerciser, BASE, 8, write=True)
    dma(rig.exerciser, BASE + SIZE, 8, write=True)
    since = rig.log.count
    dma(rig.exerciser, BASE + SIZE + 64, 4, write=False)
    last = RefusedRequest(
        number=2,
        sequence=3,
        reason=DmaReason.UNMAPPED,
        direction=DmaDirection.READ_MEMORY,
        address=BASE + SIZE + 64,
        length=4,
        byte=BASE + SIZE + 64,
    )
    assert (rig.log.count, rig.log.refused_count) == (3, 2)
    assert rig.log.refused(since) == [last]
    assert [each.sequence for each in rig.log.refused()] == [2, 3]
    assert rig.log.refused(rig.log.count) == []


def test_only_the_newest_are_there(rig: Logged) -> None:
    for _ in range(70):
        dma(rig.exerciser, BASE + SIZE, 8, write=True)
    assert [each.number for each in rig.log.refused()] == [*range(7, 71)]


def test_a_request_that_is_known_is_not_read_again(
    rig: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[int, RefusedRequest] = {}
    dma(rig.exerciser, BASE + SIZE, 8, write=True)
    first = rig.log.refused(0, known)
    dma(rig.exerciser, BASE + SIZE, 4, write=True)
    read: list[int] = []
    block = rig.bar.block

    def noted(offset: int, length: int) -> bytes:
        read.append(rig.bar[Plat.REFUSED_SELECT])
        return block(offset, length)

    monkeypatch.setattr(rig.bar, "block", noted)
    both = rig.log.refused(0, known)
    assert (both[:1], [each.length for each in both], read) == (first, [8, 4], [2])
    assert known == {each.sequence: each for each in both}
    assert rig.log.refused(both[0].sequence, known) == both[1:]


def test_refusals_that_newer_ones_overwrite_while_they_are_read(
    rig: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(64):
        dma(rig.exerciser, BASE + SIZE, 8, write=True)
    block = rig.bar.block

    def overwritten(offset: int, length: int) -> bytes:
        if rig.bar[Plat.REFUSED_SELECT] == 1:
            dma(rig.exerciser, BASE + SIZE, 8, write=True)
        return block(offset, length)

    monkeypatch.setattr(rig.bar, "block", overwritten)
    assert [each.number for each in rig.log.refused()] == [*range(2, 65)]


def test_refusals_that_a_reset_forgets_while_they_are_read(
    rig: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    dma(rig.exerciser, BASE + SIZE, 8, write=True)
    block = rig.bar.block

    def reset(offset: int, length: int) -> bytes:
        found = block(offset, length)
        rig.bar.platform.device_reset()
        return found

    monkeypatch.setattr(rig.bar, "block", reset)
    assert rig.log.refused() == []


def test_marks_go_up(rig: Logged) -> None:
    assert [rig.log.mark(), rig.log.mark()] == [1, 2]
    rig.bar[Plat.MARK] = 0xFFFF_FFFF
    assert rig.log.mark() == 0


@pytest.mark.parametrize("register", [Plat.REFUSED_REASON, Plat.REFUSED_DIRECTION])
def test_a_device_that_lies_is_told(rig: Logged, register: Plat) -> None:
    dma(rig.exerciser, BASE + SIZE, 8, write=True)
    rig.bar.answers[register] = 0xFFFF_FFFF
    with pytest.raises(PlatformDeviceError, match=r"0000:00:03\.0: refusal 1: 4294967295"):
        rig.log.refused()


def test_a_count_without_refusals_ends(rig: Logged) -> None:
    rig.bar.answers[Plat.REFUSED_COUNT] = 0xFFFF_FFFF
    assert rig.log.refused() == []


def test_a_mark_that_is_not_kept_is_told(rig: Logged) -> None:
    rig.bar.answers[Plat.MARK] = 5
    with pytest.raises(PlatformDeviceError, match="MARK reads 0x5, not 0x6"):
        rig.log.mark()
