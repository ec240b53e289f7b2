# SPDX-License-Identifier: Apache-2.0
"""The hooks of a function's life: attach, reset, power, detach."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    Command,
    DmaRefused,
    Endpoint,
    Identity,
    MemoryBar,
    PowerState,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Ext, RingStatus
from dma_rehearsal.device.layout import Reg as ExerciserReg
from dma_rehearsal.device.vfio_user.errors import NoDescriptor
from dma_rehearsal.device.vfio_user.timers import Timer
from tests.unit.device.exerciser.rings import enable, ring
from tests.unit.device.fakes import BASE, FakeClient, dma, read32, start, write32
from tests.unit.device.pci.config_words import POWER

CONTROL = POWER + 4
D0, D3HOT = 0, 3


class Reg(IntEnum):
    """BAR0."""

    PLAIN = 0
    STATUS = 4


class Living(Endpoint):
    """It takes note of its life, and does what a test says in a hook."""

    identity = Identity(0x1234, 1, 0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar([Register(Reg.PLAIN, Access.RW, reset=5), Register(Reg.STATUS)]),
        1: MemoryBar(4096),
    }

    def __init__(self) -> None:
        self.life: list[str] = []
        self.act: dict[str, Callable[[], object]] = {}
        super().__init__()

    def _note(self, what: str) -> None:
        self.life.append(what)
        self.act.get(what, lambda: None)()

    def on_attach(self) -> None:
        """Take note."""
        self._note("attach")

    def on_detach(self) -> None:
        """Take note."""
        self._note("detach")

    def on_reset(self) -> None:
        """Take note."""
        self._note("reset")

    def on_command(self) -> None:
        """Take note."""
        self._note("command")

    def on_power(self, state: PowerState) -> None:
        """Take note."""
        self._note(state.value)


@pytest.fixture
def living(client: FakeClient) -> Living:
    made = Living()
    made.attach(client)
    return made


@pytest.mark.parametrize("flr", [True, False])
def test_on_reset_finds_everything_at_its_reset_value(living: Living, flr: bool) -> None:
    start(living)
    write32(living, 0, Reg.PLAIN, 77)
    living.region_write(1, 0, b"memory")
    seen: list[object] = []

    def look() -> None:
        seen.extend((living.registers(0)[Reg.PLAIN], living.memory(1)[:6], living.config.command))
        living.registers(0)[Reg.STATUS] = 3
        living.memory(1)[:5] = b"fresh"

    living.act["reset"] = look
    living._function_level_reset() if flr else living.device_reset()
    assert seen == [5, bytes(6), Command(0)]
    start(living)
    assert (read32(living, 0, Reg.STATUS), living.region_read(1, 0, 5)) == (3, b"fresh")


def test_timer_that_on_reset_sets_stays_and_one_of_before_does_not(living: Living) -> None:
    timers: list[Timer] = []

    def set_timer() -> None:
        timers.append(living.timers.after(0, lambda: living.life.append("timer")))

    set_timer()
    living.act["reset"] = set_timer
    living.device_reset()
    assert [each.active for each in timers] == [False, True]


def test_a_client_that_comes_and_goes_and_the_next(living: Living, client: FakeClient) -> None:
    assert living.life == ["attach"]
    living.detach()
    living.attach(client)
    assert living.life == ["attach", "detach", "attach"]


def test_what_on_attach_starts_begins_later(client: FakeClient) -> None:
    class Eager(Living):
        command_at_reset = Command.BUS_MASTER

    eager, outcomes = Eager(), list[bytes | DmaRefused]()
    eager.act["attach"] = lambda: eager.bus.read_async(BASE, 4, outcomes.append)
    eager.attach(client)
    assert (outcomes, eager.dma_ready) == ([], True)
    eager.go_on()
    assert outcomes == [bytes(4)]


@pytest.mark.parametrize("hook", ["attach", "reset", "D3hot", "detach"])
def test_refused_dma_of_a_hook_is_not_an_error_of_the_process(
    client: FakeClient, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    living = Living()
    living.act[hook] = lambda: living.bus.read(BASE, 4)
    living.attach(client)
    living.device_reset()
    living.region_write(7, CONTROL, bytes((D3HOT,)))
    living.detach()
    assert living.life == ["attach", "reset", "D3hot", "command", "detach"]
    assert "BUS_MASTER_OFF" in caplog.text


def test_power_states(living: Living) -> None:
    start(living)
    living.life.clear()
    for state in (D3HOT, D3HOT, D0, D0):
        living.region_write(7, CONTROL, bytes((state,)))
    assert living.life == ["D3hot", "command", "D0", "command"]
    assert living.config.power_state is PowerState.D0
    living.region_write(7, CONTROL, bytes((D3HOT,)))
    living.life.clear()
    living.device_reset()
    assert (living.life, living.config.power_state) == (["reset"], PowerState.D0)


class OnlyMessages(FakeClient):
    """A client whose memory needs messages, which it does not answer."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        del length, write
        raise NoDescriptor(address)


def test_ring_shows_nothing_of_the_work_that_a_reset_ended(exerciser: Exerciser) -> None:
    exerciser.attach(OnlyMessages())
    enable(exerciser, 16)
    assert ring(exerciser, 1)[0] == RingStatus.BUSY
    exerciser.device_reset()
    start(exerciser)
    assert read32(exerciser, 3, Ext.RING_STATUS) == RingStatus.OK


def test_exerciser_shows_nothing_of_the_dma_that_a_reset_ended(exerciser: Exerciser) -> None:
    write32(exerciser, 3, Ext.HOLD, 1)
    dma(exerciser, BASE, 100, write=True)
    exerciser._function_level_reset()
    start(exerciser)
    assert read32(exerciser, 0, ExerciserReg.DMASTATUS) == 0
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0
