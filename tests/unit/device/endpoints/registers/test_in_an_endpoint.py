# SPDX-License-Identifier: Apache-2.0
"""Arrays, widths and accesses in a whole endpoint: the trace, HOLD, resets, a migration."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    Command,
    Endpoint,
    Identity,
    Register,
    RegisterArray,
    RegisterBar,
    StatePart,
    Trigger,
)
from dma_rehearsal.device.vfio_user.messages import DeviceState
from tests.unit.device.fakes import BASE, FakeClient, read32, write32


class Reg(IntEnum):
    """BAR0; BAR2 has the last alone."""

    TARGET = 0x00
    EVENTS = 0x08
    MASK_SET = 0x10  # 0x0c is a hole
    TAIL = 0x20
    HEAD = 0x24
    CONTROL = 0x40


class Queues(Endpoint):
    """Doorbells that write to memory; ``did`` has the calls of side effects."""

    identity = Identity(0x1234, 0x0D00, 0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.TARGET, Access.RW, bits=64, trigger=Trigger.LAST),
                Register(Reg.EVENTS, Access.RC),
                Register(Reg.MASK_SET, Access.W1S, reset=1),
                RegisterArray(Reg.TAIL, 4, 8, Access.RW, reset=7),
                RegisterArray(Reg.HEAD, 4, 8),
                Register(Reg.CONTROL, Access.RW),
            )
        ),
        2: RegisterBar((Register(Reg.CONTROL, Access.RW),), prefix="dma"),
    }
    state: ClassVar[Sequence[StatePart]] = (StatePart(0, 0, 0x40),)
    command_at_reset = Command.BUS_MASTER | Command.MEMORY_SPACE

    def __init__(self) -> None:
        super().__init__()
        self.did: list[tuple[Any, ...]] = []
        self.attach(FakeClient())

    def write_target(self, value: int) -> None:
        self.did.append(("target", value))
        self.bus.write(BASE, b"!")

    def write_tail(self, queue: int, value: int) -> None:
        self.did.append(("tail", queue, value))
        self.bus.write(BASE, b"!")
        self.did.append(("moved", queue))

    def read_head(self, queue: int) -> int:
        self.did.append(("head", queue))
        return queue

    def write_control(self, value: int) -> None:
        self.did.append(("control", value))

    def write_dma_control(self, value: int) -> None:
        self.did.append(("dma control", value))


@pytest.fixture
def device() -> Queues:
    return Queues()


def test_the_same_names_in_two_bars(device: Queues) -> None:
    write32(device, 0, Reg.CONTROL, 1)
    write32(device, 2, Reg.CONTROL, 2)
    assert device.did == [("control", 1), ("dma control", 2)]


def test_without_a_prefix_two_registers_would_call_one_method() -> None:
    bars = {**Queues.bars, 2: RegisterBar((Register(Reg.CONTROL, Access.RW),))}

    class Twice(Endpoint):
        identity = Queues.identity

        def write_control(self, value: int) -> None: ...

    with pytest.raises(ValueError, match="BAR0 and BAR2 each have a register CONTROL"):
        Twice(bars=bars)


@pytest.mark.parametrize(
    ("offset", "name"),
    [
        (Reg.TARGET + 5, "BAR0 0x5 (TARGET)"),
        (Reg.TAIL + 24, "BAR0 0x38 (TAIL[3])"),
        (Reg.HEAD + 11, "BAR0 0x2f (HEAD[1])"),
        (0x0C, "BAR0 0xc"),
    ],
)
def test_names_of_places(device: Queues, offset: int, name: str) -> None:
    assert device.location(0, offset) == name


def test_an_element_is_held_by_its_name(device: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(
        device.trace, "event", lambda _, event, **facts: events.append((event, facts))
    )
    board = device.bus.interconnect.holds
    board.set(True)
    write32(device, 0, Reg.TAIL + 8, 5)
    assert device.did == [("tail", 1, 5)]
    assert ("held", {"place": "BAR0 0x28 (TAIL[1])"}) in events
    board.set(False)
    device.go_on()
    assert device.did[1:] == [("moved", 1)]


def test_a_half_that_triggers_nothing_is_no_action(device: Queues) -> None:
    board = device.bus.interconnect.holds
    board.set(True)
    write32(device, 0, Reg.TAIL, 5)
    write32(device, 0, Reg.TARGET, 1)
    assert board.held == 1, "the doorbell waits still"
    write32(device, 0, Reg.TARGET + 4, 2)
    assert device.did == [("tail", 0, 5), ("moved", 0), ("target", 0x2_0000_0001)]
    board.set(False)
    device.go_on()


def test_a_reset_is_of_each_element(device: Queues) -> None:
    registers = device.registers(0)
    write32(device, 0, Reg.TAIL + 16, 9)
    write32(device, 0, Reg.MASK_SET, 6)
    assert (registers[Reg.TAIL, 2], registers[Reg.MASK_SET]) == (9, 7)
    device.device_reset()
    assert (registers[Reg.TAIL, 2], registers[Reg.MASK_SET]) == (7, 1)


def test_a_stopped_device_reads_without_clearing_and_moves_with_its_values(
    device: Queues,
) -> None:
    registers = device.registers(0)
    registers[Reg.TARGET], registers[Reg.EVENTS] = 0x1_2345_6789_ABCD, 3
    registers[Reg.TAIL, 3] = 11
    assert device.migration is not None
    device.migration.set(DeviceState.STOP_COPY)
    assert read32(device, 0, Reg.EVENTS) == 3
    assert read32(device, 0, Reg.HEAD + 8) == 0, "what is stored"
    saved = device.migration.read(1 << 20)
    other = Queues()
    assert other.migration is not None
    other.migration.set(DeviceState.RESUMING)
    other.migration.write(saved)
    other.migration.set(DeviceState.RUNNING)
    assert other.did == device.did == []
    found = other.registers(0)
    assert (found[Reg.TARGET], found[Reg.TAIL, 3]) == (0x1_2345_6789_ABCD, 11)
    assert (read32(other, 0, Reg.EVENTS), read32(other, 0, Reg.EVENTS)) == (3, 0)


def test_values_that_are_not_numbers_name_the_register(device: Queues) -> None:
    wrong: Any = "7"
    with pytest.raises(TypeError, match="CONTROL: '7' is stored; a register takes an int"):
        device.registers(0)[Reg.CONTROL] = wrong

    class Wordy(Queues):
        def read_events(self) -> Any:
            """Return nothing."""

    with pytest.raises(TypeError, match="read side effect of EVENTS returned None; return an int"):
        read32(Wordy(), 0, Reg.EVENTS)
