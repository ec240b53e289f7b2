# SPDX-License-Identifier: Apache-2.0
"""The interrupts of a function alone, without an endpoint."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.pci import msix
from dma_rehearsal.device.pci.config import Command
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.endpoints.bare_function import LINE, BareFunction


@pytest.fixture
def function() -> BareFunction:
    return BareFunction()


def test_a_line_is_signalled_once_until_its_end(function: BareFunction) -> None:
    function.interrupts.intx.level = True
    function.interrupts.intx.level = True
    assert function.client.interrupts == [LINE]
    function.interrupts.intx.end_of_interrupt()
    assert function.client.interrupts == [LINE, LINE], "it is still up"
    function.interrupts.intx.level = False
    assert function.status, "the client's line is up until its end"
    function.interrupts.intx.end_of_interrupt()
    assert not function.status


def test_a_line_waits_for_interrupt_disable_and_shows_its_status(function: BareFunction) -> None:
    function.command(Command.BUS_MASTER | Command.INTX_DISABLE)
    function.interrupts.intx.level = True
    assert function.client.interrupts == []
    assert function.status
    function.command(Command.BUS_MASTER)
    assert function.client.interrupts == [LINE]


def test_messages_take_the_place_of_the_line(function: BareFunction) -> None:
    function.control(msix.ENABLE)
    function.interrupts.intx.level = True
    assert function.interrupts.msix[3].send()
    assert function.client.interrupts == [(Irq.MSIX, 3)]


def test_a_masked_message_is_pending_until_its_unmask(function: BareFunction) -> None:
    function.control(msix.ENABLE | msix.FUNCTION_MASK)
    assert not function.interrupts.msix[2].send()
    assert function.pending == bytes((1 << 2,))
    function.control(msix.ENABLE)
    assert function.client.interrupts == [(Irq.MSIX, 2)]
    assert function.pending == bytes(1)
    assert function.events == ["pending", "msi-x"]


@pytest.mark.parametrize("command", [Command.MEMORY_SPACE, Command(0)])
def test_a_message_without_bus_mastering_is_neither_sent_nor_kept(
    function: BareFunction, command: Command
) -> None:
    function.control(msix.ENABLE)
    function.command(command)
    assert not function.interrupts.msix[1].send()
    function.command(Command.BUS_MASTER)
    assert function.client.interrupts == []


def test_a_reset_forgets_what_is_pending(function: BareFunction) -> None:
    function.client.masked.add((Irq.MSIX, 0))
    function.control(msix.ENABLE)
    function.interrupts.msix[0].send()
    function.interrupts.reset()
    function.client.masked.clear()
    function.interrupts.unmasked(Irq.MSIX, 0)
    assert function.client.interrupts == []


def test_a_message_says_whether_it_is_masked_and_pending(function: BareFunction) -> None:
    vector = function.interrupts.msix[2]
    function.control(msix.ENABLE)
    function.client.masked.add((Irq.MSIX, 2))
    assert vector.masked
    assert not vector.pending
    assert not vector.send()
    assert vector.pending
    assert not function.interrupts.msix[1].masked
    function.client.masked.clear()
    function.interrupts.unmasked(Irq.MSIX, 2)
    assert (vector.masked, vector.pending) == (False, False)
    assert function.client.interrupts == [(Irq.MSIX, 2)]


def test_a_pending_message_whose_events_are_served_is_not_sent(function: BareFunction) -> None:
    function.control(msix.ENABLE | msix.FUNCTION_MASK)
    function.interrupts.msix[1].send()
    function.interrupts.msix[3].send()
    assert function.pending == b"\x0a"
    function.interrupts.msix[1].clear()
    assert function.pending == b"\x08"
    function.control(msix.ENABLE)
    assert function.client.interrupts == [(Irq.MSIX, 3)]


def test_a_message_that_is_not_declared(function: BareFunction) -> None:
    with pytest.raises(IndexError, match="msi-x message 4: the function has 4; declare more vec"):
        function.interrupts.msix[4]
    with pytest.raises(IndexError, match="msi message 0: the function has 0; declare more mess"):
        function.interrupts.msi[0]
    assert not function.interrupts.msix.send(4)
    assert [each.number for each in function.interrupts.msix] == [0, 1, 2, 3]


def test_kinds_say_whether_they_are_enabled() -> None:
    function = BareFunction(messages=8)
    interrupts = function.interrupts
    assert (interrupts.msix.enabled, interrupts.msix.count) == (False, 4)
    assert (interrupts.msi.enabled, interrupts.msi.count, interrupts.msi.supported) == (False, 0, 8)
    assert (interrupts.intx.enabled, interrupts.intx.supported) == (True, True)
    function.msi_control(0x21)
    assert (interrupts.msi.enabled, interrupts.msi.count) == (True, 4)
    assert not interrupts.intx.enabled
    function.msi_control(0)
    function.control(msix.ENABLE)
    assert (interrupts.msix.enabled, interrupts.intx.enabled) == (True, False)
    assert not BareFunction(pin=0).interrupts.intx.supported


def test_masks_of_msi() -> None:
    """PCI Local Bus 3.0, sections 6.8.1.7 and 6.8.1.8."""
    function = BareFunction(messages=4, masks=True)
    start = function.start_msi
    assert start is not None
    function.msi_control(0x21)
    assert function.config.word(start + 2) == 0x1A5, "64-bit addresses and per-vector masking"

    def mask(bits: int) -> None:
        function.config.write(start + 0x10, bits.to_bytes(4, "little"))
        function.interrupts.update()

    mask(0xFFFF_FFF2)
    assert function.config.dword(start + 0x10) == 2, "the others are reserved"
    assert not function.interrupts.msi[1].send()
    assert function.interrupts.msi[0].send()
    assert function.config.dword(start + 0x14) == 2
    function.config.write(start + 0x14, bytes(4))
    assert function.config.dword(start + 0x14) == 2, "software cannot write it"
    mask(0)
    assert function.client.interrupts == [(Irq.MSI, 0), (Irq.MSI, 1)]
    assert function.config.dword(start + 0x14) == 0


def test_msi_without_masks_shows_no_pending_bits() -> None:
    function = BareFunction(messages=4)
    start = function.start_msi
    assert start is not None
    function.msi_control(0x21)
    function.client.masked.add((Irq.MSI, 0))
    assert not function.interrupts.msi[0].send()
    assert function.interrupts.msi[0].pending
    assert function.config.read(start + 0x0E, 16) == bytes(16), "another capability's place"


@pytest.mark.parametrize("allocated", range(6))
def test_only_the_messages_that_are_allocated_are_sent(allocated: int) -> None:
    function = BareFunction(messages=32)
    function.msi_control(1 | allocated << 4)
    sent = [each.number for each in function.interrupts.msi if each.send()]
    assert sent == [*range(1 << allocated)]
    assert function.interrupts.msi.count == 1 << allocated
