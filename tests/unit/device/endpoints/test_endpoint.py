# SPDX-License-Identifier: Apache-2.0
"""The author's side of an endpoint: fields, BARs, MSI, memory by lists, peers, early errors."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar, RegisterBar
from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused, Transaction
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import (
    Access,
    Field,
    Fields,
    Flag,
    Register,
)
from dma_rehearsal.device.endpoints.request_log import HISTORY
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import DmaReason, Ext
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.pci.msi import Msi
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.fakes import BASE, READ_ONLY_BASE, FakeClient, answer, dma, read32, write32


class Reg(IntEnum):
    CONTROL = 0
    RESULT = 4


class Mode(IntEnum):
    SLOW = 0
    FAST = 1


class Control(Fields):
    start = Flag(1 << 0, Access.SELF_CLEARING)
    mode = Field(1 << 1, type=Mode, reset=1)
    level = Field(0xF0)
    error = Flag(1 << 8, Access.W1C, reset=True)
    busy = Flag(1 << 9, Access.RO)


class Small(Endpoint):
    identity = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000, interrupt_pin=1)
    bars: ClassVar[Bars] = {
        0: RegisterBar((Register(Reg.CONTROL, Control), Register(Reg.RESULT))),
        1: MemoryBar(0x2000),
    }
    vectors = 3
    messages = 4

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.written: list[Control] = []

    def write_control(self, value: int) -> None:
        self.written.append(Control(value))


@pytest.fixture
def small(client: FakeClient) -> Small:
    made = Small(Trace())
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    return made


def test_fields_of_a_register(small: Small) -> None:
    assert read32(small, 0, Reg.CONTROL) == 0x102
    write32(small, 0, Reg.CONTROL, 0xFFFF_FFFF)
    (seen,) = small.written
    assert (seen.start, seen.mode, seen.level, seen.error) == (True, Mode.FAST, 15, True)
    assert read32(small, 0, Reg.CONTROL) == 0xF2, "the command and what was cleared read 0"
    small.region_write(0, 0, b"\x01")
    assert small.written[-1].level == 0
    small.region_write(0, 1, b"\x00")
    assert not small.written[-1].start, "a byte that is not written commands nothing"
    small.device_reset()
    answer(small)
    assert read32(small, 0, Reg.CONTROL) == 0x102


def test_msix_gets_a_bar_of_its_own(small: Small) -> None:
    assert small.region_size(5) == 0x1000
    place = small.config.read(0x34, 1)[0]
    while small.config.read(place, 1) != b"\x11":
        place = small.config.read(place + 1, 1)[0]
    _, table, pending = struct.unpack("<HII", small.config.read(place + 2, 10))
    assert (table, pending) == (5, 5 | 48)


def test_msi_needs_its_enable(small: Small, client: FakeClient) -> None:
    place = small.config.read(0x34, 1)[0]
    while small.config.read(place, 1) != b"\x05":
        place = small.config.read(place + 1, 1)[0]
    assert not small.msi(0)
    small.region_write(7, place + 2, b"\x01\x00")
    assert small.msi(0)
    assert not small.msi(1), "Multiple Message Enable: one"
    small.region_write(7, place + 2, b"\x21\x00")
    assert small.msi(3)
    assert not small.msi(4)
    small.region_write(7, place + 2, b"\x51\x00")
    assert not small.msi(4), "software allocated more than there are"
    assert client.interrupts == [(1, 0), (1, 3)]
    assert small.irq_count(1) == 4
    small.intx(True)
    assert client.interrupts == [(1, 0), (1, 3)], "INTx is not used while MSI is"
    small.region_write(7, 4, b"\2\0")
    assert not small.msi(0), "a message is a write to memory"


def test_pending_bits_are_of_msix_alone(small: Small, client: FakeClient) -> None:
    msi, msix = small.config.start_of(Msi), small.config.start_of(MsiX)
    assert msi is not None
    assert msix is not None
    small.region_write(7, msi + 2, b"\x21\x00")
    client.masked |= {(Irq.MSI, 0), (Irq.MSIX, 2)}
    assert not small.msi(0)
    assert small.region_read(5, 48, 8) == bytes(8)
    small.region_write(7, msix + 2, b"\x00\x80")
    assert not small.msix(2)
    assert small.region_read(5, 48, 8) == b"\x04" + bytes(7)
    client.masked.clear()
    small.message_unmasked(Irq.MSI, 0)
    small.message_unmasked(Irq.MSIX, 2)
    assert client.interrupts == [(Irq.MSI, 0), (Irq.MSIX, 2)]
    assert small.region_read(5, 48, 8) == bytes(8)


def test_lists_move_all_or_nothing(small: Small, client: FakeClient) -> None:
    small.bus.write_list([(BASE, b"one"), (BASE + 100, b"two")])
    assert small.bus.read_list([(BASE + 100, 3), (BASE, 3)]) == [b"two", b"one"]
    with pytest.raises(DmaRefused) as refusal:
        small.bus.write_list([(BASE, b"new"), (READ_ONLY_BASE, b"new")])
    assert refusal.value.reason is DmaReason.READ_ONLY
    assert client.ram[:3] == b"one"


def test_every_transaction_is_kept_and_their_number_bounded(small: Small) -> None:
    small.bus.write(BASE, b"data", Attributes(no_snoop=True, pasid=7))
    with pytest.raises(DmaRefused):
        small.bus.read(0, 8)
    assert list(small.bus.transactions) == [
        Transaction(True, BASE, 4, Attributes(no_snoop=True, pasid=7), DmaReason.NONE),
        Transaction(False, 0, 8, Attributes(), DmaReason.UNMAPPED),
    ]
    for _ in range(HISTORY + 10):
        small.bus.read(BASE, 1)
    assert len(small.bus.transactions) == HISTORY


def test_no_snoop_leaves_only_when_it_is_enabled(small: Small) -> None:
    small.region_write(7, 0x48, b"\0\0")
    small.bus.read(BASE, 1, Attributes(no_snoop=True))
    assert not small.bus.transactions[-1].attributes.no_snoop


def place(endpoint: Endpoint, bar: int, address: int) -> None:
    endpoint.region_write(7, 4, b"\x06\x00")
    write32(endpoint, 7, 0x10 + 4 * bar, address)


@pytest.mark.parametrize("bar", range(5))
def test_own_bar_is_never_reached(exerciser: Exerciser, bar: int) -> None:
    """Else a DMA's data would be a register write in the middle of that DMA."""
    place(exerciser, bar, 0x9000_0000)
    for address in (0x9000_0000, 0x9000_0000 - 8):
        found = dma(exerciser, address, 16, write=True)
        assert (found["reason"], found["moved"]) == (DmaReason.OWN_BAR, 0)
    beside = [dma(exerciser, 0x9000_0000 - 16, 16, write=True)["reason"]]
    beside.append(dma(exerciser, 0x9000_0008, 0, write=True)["reason"])
    assert beside == [DmaReason.UNMAPPED] * 2, "in front, no byte"
    exerciser.region_write(7, 4, b"\x04\x00")
    with pytest.raises(DmaRefused) as refusal:
        exerciser.bus.write(0x9000_0000, bytes(16))
    assert refusal.value.reason is DmaReason.UNMAPPED, "memory space off"


def test_peers_reach_each_others_memory_and_no_registers(client: FakeClient) -> None:
    fabric = Fabric()
    first, second = (Exerciser(Trace(), fabric=fabric) for _ in range(2))
    for each in first, second:
        each.attach(client)
        each.region_write(7, 4, b"\x06\x00")
    write32(second, 7, 0x14, 0x9000_0000)
    write32(second, 7, 0x10, 0xA000_0000)
    write32(second, 7, 0x20, 0xB000_0000)
    first.region_write(1, 0, b"peer to peer")
    assert dma(first, 0x9000_0100, 12, write=True)["status"] == 0
    assert second.region_read(1, 0x100, 12) == b"peer to peer"
    assert dma(first, 0x9000_0100, 12, write=False, offset=64)["status"] == 0
    assert first.region_read(1, 64, 12) == b"peer to peer"
    for address in (0xA000_0000, 0x9000_0000 - 6, 0x9001_0000 - 6):
        assert dma(first, address, 12, write=True)["reason"] == DmaReason.UNMAPPED
    assert dma(first, 0xB000_0000, 12, write=True)["reason"] == DmaReason.READ_ONLY
    assert dma(first, 0xB000_0000, 12, write=False)["status"] == 0
    assert read32(second, 3, Ext.DMA_COUNT) == 0


@pytest.mark.parametrize(
    ("bars", "words"),
    [
        ({6: MemoryBar(4096)}, "BAR6"),
        ({0: MemoryBar(5000)}, "power of two"),
        ({number: MemoryBar(4096) for number in range(6)}, "no BAR is free"),
    ],
)
def test_bars_that_cannot_be(bars: Bars, words: str) -> None:
    class Wrong(Small):
        def __init__(self) -> None:
            Endpoint.__init__(self, Trace(), bars=bars)

    with pytest.raises(ValueError, match=words):
        Wrong()


def test_content_of_another_kind_is_an_error(small: Small) -> None:
    with pytest.raises(LookupError, match="BAR1 has no registers"):
        small.registers(1)
    with pytest.raises(LookupError, match="BAR0 has no memory"):
        small.memory(0)


def test_side_effect_of_no_register_is_an_error() -> None:
    said = r"write_contrl: no register of that name \(is it write_control\?\); declare it"
    with pytest.raises(ValueError, match=said):

        class Misspelt(Small):
            def write_contrl(self, value: int) -> None: ...


def status_of(device: Endpoint) -> int:
    return int.from_bytes(device.region_read(7, 6, 2), "little")


@pytest.mark.parametrize("declared", [False, True])
def test_immediate_readiness_is_what_the_class_declares(declared: bool) -> None:
    """Base 5.0, 7.5.1.1.4: read only, and no reset changes it."""

    class Ready(Small):
        immediate_readiness = declared

    device = Ready(Trace())
    assert status_of(device) & 1 == declared
    device.region_write(7, 6, b"\xff\xff")
    assert status_of(device) & 1 == declared
    device.device_reset()
    assert status_of(device) & 1 == declared
    assert status_of(device) & 0x10, "its neighbours stay: the capability list"


def test_a_class_can_be_made_twice() -> None:
    for _ in range(2):
        made = Small(Trace())
        answer(made)
        assert read32(made, 0, Reg.CONTROL) == 0x102


class Careless(Small):
    """Catches no refusal: its control register writes to memory, now or from a timer."""

    def write_control(self, value: int) -> None:
        if value & 1 << 0:
            self.bus.write(READ_ONLY_BASE, b"data")
        else:
            self.timers.after(0, lambda: self.bus.write(READ_ONLY_BASE, b"data"))
        self.written.append(Control(value))


@pytest.mark.parametrize("start", [1, 0], ids=["from a register", "from a timer"])
def test_refusal_that_a_model_does_not_catch_is_no_bug_of_the_process(
    client: FakeClient, caplog: pytest.LogCaptureFixture, start: int
) -> None:
    """The trace has it, by which the test is judged; the device goes on."""
    made = Careless(Trace())
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    for _ in range(2):
        write32(made, 0, Reg.CONTROL, start)
        made.timers.run_due()
    assert made.bus.interconnect.refusals.count == 2
    assert [each.levelname for each in caplog.records] == ["WARNING"] * 2
    assert "READ_ONLY" in caplog.text
    assert "catch DmaRefused" in caplog.text
    assert len(made.written) == (0 if start else 2)


def test_refusal_in_a_hook_of_the_configuration_space(
    client: FakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Bus mastering goes on, and the device writes at once where it may not."""

    class Eager(Small):
        def on_command(self) -> None:
            self.bus.write(READ_ONLY_BASE, b"data")

    made = Eager(Trace())
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    assert made.config.bus_master
    assert "READ_ONLY" in caplog.text


def test_bug_of_a_model_in_a_timer_is_one(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    small.timers.after(0, lambda: [].pop())
    small.timers.run_due()
    assert [each.levelname for each in caplog.records] == ["ERROR"]
