# SPDX-License-Identifier: Apache-2.0
"""HOLD between two servers: the platform's client lets an action of another function go."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.hold_board import HoldRules
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.layout import Plat
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.platform.platform import Platform, PlatformModels
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import timers
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.serving import serving

BASE, SIZE = 0x10_0000, 1 << 20
Reg = IntEnum("Reg", {"NOW": 0, "LATER": 4, "DONE": 8})
KINDS = pytest.mark.parametrize("kind", [Reg.NOW, Reg.LATER], ids=["sync", "async"])


class Writer(Endpoint):
    """Writes a byte when it is told to, at once or later; DONE counts, and an event tells."""

    identity = Identity(vendor_id=0x1234, device_id=4, class_code=0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (Register(Reg.NOW, Access.WO), Register(Reg.LATER, Access.WO), Register(Reg.DONE))
        )
    }

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()

    def write_now(self, offset: int) -> None:
        self.bus.write(BASE + offset, b"!")
        self._count()

    def write_later(self, offset: int) -> None:
        self.bus.write_async(BASE + offset, b"!", lambda _: self._count())

    def _count(self) -> None:
        self.registers(0)[Reg.DONE] += 1
        self.done.set()


@dataclass
class Rig:
    """The clients of both functions, and the memory of one."""

    endpoint: Writer
    platform: Platform
    function: RawClient
    board: RawClient
    memory: int

    def hold(self) -> None:
        self.board.write32(0, Plat.HOLD_CTL, 1)

    def moved(self) -> bool:
        return os.pread(self.memory, 1, 5) == b"!"

    def held(self) -> int:
        return self.board.read32(0, Plat.HELD)


@pytest.fixture
def rig(tmp_path: Path, memory: int) -> Iterator[Rig]:
    platform = Platform(Trace())
    endpoint = Writer()
    endpoint.bus.interconnect = platform.interconnect
    with (
        serving(tmp_path / "endpoint", endpoint) as first,
        serving(tmp_path / "platform", platform) as second,
        RawClient(first) as function,
        RawClient(second) as board,
    ):
        function.dma_map(BASE, SIZE, memory)
        for each in function, board:
            each.start()
        yield Rig(endpoint, platform, function, board, memory)
    left = [each for each in threading.enumerate() if each.name == "held action"]
    assert not left
    assert platform.interconnect.holds.held == 0


@KINDS
def test_eager(rig: Rig, kind: Reg) -> None:
    rig.function.write32(0, kind, 5)
    assert rig.moved()


@KINDS
def test_released_while_the_functions_server_sleeps(rig: Rig, kind: Reg) -> None:
    rig.hold()
    rig.function.write32(0, kind, 5)
    assert (rig.held(), rig.moved()) == (1, False)
    assert rig.function.read32(0, Reg.DONE) == 0
    rig.board.write32(0, Plat.HOLD_RELEASE, 1)
    assert rig.endpoint.done.wait(60)
    assert rig.moved()
    assert rig.function.read32(0, Reg.DONE) == 1
    assert rig.held() == 0


@KINDS
@pytest.mark.parametrize("by", ["post", "timer"])
def test_work_of_a_thread_waits_behind_it(rig: Rig, kind: Reg, by: str) -> None:
    """It wakes the server, and runs when the action is over."""
    seen: list[int] = []
    ran = threading.Event()

    def note() -> None:
        seen.append(rig.endpoint.registers(0)[Reg.DONE])
        ran.set()

    rig.hold()
    rig.function.write32(0, kind, 5)
    if by == "post":
        rig.endpoint.post(note)
    else:
        rig.endpoint.timers.after(0, note)
    assert rig.function.read32(0, Reg.DONE) == 0
    assert not seen
    rig.board.write32(0, Plat.HOLD_RELEASE, 1)
    assert ran.wait(60)
    assert seen == [1]


def test_work_of_a_thread_does_not_wait_where_nothing_is_held(rig: Rig) -> None:
    rig.hold()
    assert rig.endpoint.post_future(threading.get_ident).result(60) != threading.get_ident()


@pytest.mark.parametrize("room", [False, True])
@KINDS
def test_it_goes_by_itself(
    rig: Rig, kind: Reg, room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many timers the platform has."""
    if not room:
        monkeypatch.setattr(timers, "MAX_TIMERS", 0)
    rig.platform.use(PlatformModels(hold=HoldRules(limit_s=0.01)))
    rig.hold()
    rig.function.write32(0, kind, 5)
    assert rig.endpoint.done.wait(60)
    assert rig.function.read32(0, Reg.DONE) == 1
    assert rig.board.read32(0, Plat.HOLD_EXPIRED) == 1


@KINDS
def test_client_that_dies_while_an_action_waits(rig: Rig, kind: Reg) -> None:
    rig.hold()
    rig.function.write32(0, kind, 5)
    rig.function.close()
    # Both models end: that of the synchronous one sees its DMA refused.
    if kind is Reg.LATER:
        assert rig.endpoint.done.wait(60)
    while rig.held():
        pass
    assert not rig.moved()


def test_platform_that_is_reset_holds_nothing(rig: Rig) -> None:
    rig.hold()
    rig.function.write32(0, Reg.NOW, 5)
    rig.platform.interconnect.holds.reset()
    assert rig.endpoint.done.wait(60)
    assert rig.function.read32(0, Reg.DONE) == 1
