# SPDX-License-Identifier: Apache-2.0
"""The interrupts of a function alone, without an endpoint."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.endpoints.interrupts import Capabilities, Interrupts
from dma_rehearsal.device.pci import msix
from dma_rehearsal.device.pci.config import Command, ConfigSpace, Header, Identity, Status
from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.fakes import FakeClient

VECTORS = 4
BARS = MsixBars(table=0, pba=0, pba_offset=msix.table_size(VECTORS))
LINE = (Irq.INTX, 0)


class Function:
    """Configuration space, a client and the interrupts between them."""

    def __init__(self) -> None:
        self.config = ConfigSpace(Identity(1, 1, 0xFF0000, interrupt_pin=1), {0: 0x1000})
        self.start = self.config.add(MsiX(VECTORS, BARS.table, BARS.pba, BARS.pba_offset))
        self.client = FakeClient()
        self.events: list[str] = []
        self.interrupts = Interrupts(
            self.config,
            Capabilities(self.start, VECTORS, None, 0, BARS),
            client=lambda: self.client,
            event=lambda event, **_: self.events.append(event),
            signal_intx=lambda: self.interrupts.signal_intx(),
            intx_status=lambda: self.interrupts.intx_status(),
        )

    def command(self, command: Command) -> None:
        self.config.write(Header.COMMAND, command.to_bytes(2, "little"))
        self.interrupts.update()

    def control(self, bits: int) -> None:
        self.config.write(self.start + msix.MESSAGE_CONTROL, bits.to_bytes(2, "little"))
        self.interrupts.update()

    @property
    def pending(self) -> bytes:
        region = self.interrupts.msix_region
        assert region is not None
        return region.read(0, BARS.pba_offset, bytes(1))

    @property
    def status(self) -> bool:
        return bool(self.config.word(Header.STATUS) & Status.INTERRUPT)


@pytest.fixture
def function() -> Function:
    made = Function()
    made.command(Command.MEMORY_SPACE | Command.BUS_MASTER)
    return made


def test_a_line_is_signalled_once_until_its_end(function: Function) -> None:
    function.interrupts.intx(True)
    function.interrupts.intx(True)
    assert function.client.interrupts == [LINE]
    function.interrupts.end_of_interrupt()
    assert function.client.interrupts == [LINE, LINE], "it is still up"
    function.interrupts.intx(False)
    assert function.status, "the client's line is up until its end"
    function.interrupts.end_of_interrupt()
    assert not function.status


def test_a_line_waits_for_interrupt_disable_and_shows_its_status(function: Function) -> None:
    function.command(Command.BUS_MASTER | Command.INTX_DISABLE)
    function.interrupts.intx(True)
    assert function.client.interrupts == []
    assert function.status
    function.command(Command.BUS_MASTER)
    assert function.client.interrupts == [LINE]


def test_messages_take_the_place_of_the_line(function: Function) -> None:
    function.control(msix.ENABLE)
    function.interrupts.intx(True)
    assert function.interrupts.msix(3)
    assert function.client.interrupts == [(Irq.MSIX, 3)]


def test_a_masked_message_is_pending_until_its_unmask(function: Function) -> None:
    function.control(msix.ENABLE | msix.FUNCTION_MASK)
    assert not function.interrupts.msix(2)
    assert function.pending == bytes((1 << 2,))
    function.control(msix.ENABLE)
    assert function.client.interrupts == [(Irq.MSIX, 2)]
    assert function.pending == bytes(1)
    assert function.events == ["pending", "msi-x"]


@pytest.mark.parametrize("command", [Command.MEMORY_SPACE, Command(0)])
def test_a_message_without_bus_mastering_is_neither_sent_nor_kept(
    function: Function, command: Command
) -> None:
    function.control(msix.ENABLE)
    function.command(command)
    assert not function.interrupts.msix(1)
    function.command(Command.BUS_MASTER)
    assert function.client.interrupts == []


def test_a_reset_forgets_what_is_pending(function: Function) -> None:
    function.client.masked.add((Irq.MSIX, 0))
    function.control(msix.ENABLE)
    function.interrupts.msix(0)
    function.interrupts.reset()
    function.client.masked.clear()
    function.interrupts.unmasked(Irq.MSIX, 0)
    assert function.client.interrupts == []
