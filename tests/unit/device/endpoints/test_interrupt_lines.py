# SPDX-License-Identifier: Apache-2.0
"""Sources of interrupts, whichever way software has enabled."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dma_rehearsal.device.pci import msix
from dma_rehearsal.device.pci.config import Command
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.generated import examples
from tests.unit.device.endpoints.bare_function import LINE, ON, VECTORS, BareFunction

MSI_ON = 0x01


def test_a_rise_sends_its_vector_once() -> None:
    function = BareFunction()
    function.control(msix.ENABLE)
    line = function.interrupts.line(2)
    line.level = True
    line.level = True
    assert function.client.interrupts == [(Irq.MSIX, 2)]
    line.level = False
    line.level = True
    assert function.client.interrupts == [(Irq.MSIX, 2)] * 2
    assert function.interrupts.line(2) is line


def test_each_event_sends_a_message_and_holds_intx_up() -> None:
    function = BareFunction()
    line = function.interrupts.line(1)
    assert line.send()
    assert line.send()
    assert line.level
    assert function.client.interrupts == [LINE], "one interrupt until its end"
    line.level = False
    function.interrupts.intx.end_of_interrupt()
    function.control(msix.ENABLE)
    assert line.send()
    assert line.send()
    assert function.client.interrupts == [LINE, (Irq.MSIX, 1), (Irq.MSIX, 1)]


def test_intx_is_up_while_any_source_is() -> None:
    function = BareFunction()
    interrupts = function.interrupts
    interrupts.line(0).level = True
    interrupts.line(3).level = True
    interrupts.intx.level = True
    assert function.events == ["intx"], "it rose once"
    interrupts.line(0).level = False
    interrupts.intx.level = False
    assert interrupts.intx.level
    assert function.status
    interrupts.line(3).level = False
    assert not interrupts.intx.level
    interrupts.intx.end_of_interrupt()
    assert not function.status
    assert function.events == ["intx", "intx"]


@pytest.mark.parametrize(("allocated", "message"), [(0, 0), (1, 1), (2, 3), (3, 3)])
def test_msi_messages_are_folded_into_those_that_are_allocated(
    allocated: int, message: int
) -> None:
    function = BareFunction(messages=8)
    function.msi_control(MSI_ON | allocated << 4)
    function.interrupts.line(3).level = True
    assert function.client.interrupts == [(Irq.MSI, message)]


def test_a_level_that_is_up_goes_the_way_that_is_enabled_next() -> None:
    function = BareFunction(messages=4)
    line = function.interrupts.line(2)
    function.control(msix.ENABLE)
    line.level = True
    function.control(0)
    assert function.client.interrupts == [(Irq.MSIX, 2), LINE]
    assert function.interrupts.intx.level
    function.msi_control(MSI_ON)
    assert function.client.interrupts == [(Irq.MSIX, 2), LINE, (Irq.MSI, 0)]
    assert not function.interrupts.intx.level, "MSI takes its place"
    line.level = False
    function.msi_control(0)
    assert function.client.interrupts == [(Irq.MSIX, 2), LINE, (Irq.MSI, 0)]


def test_a_level_that_rose_without_bus_mastering_is_told_when_it_is_on() -> None:
    function = BareFunction()
    function.control(msix.ENABLE)
    function.command(Command.MEMORY_SPACE)
    function.interrupts.line(0).level = True
    assert not function.interrupts.line(1).send()
    assert function.client.interrupts == []
    function.command(ON)
    assert function.client.interrupts == [(Irq.MSIX, 0), (Irq.MSIX, 1)]
    function.command(ON | Command.PARITY_RESPONSE)
    assert len(function.client.interrupts) == 2


def test_a_fall_takes_a_pending_message_back() -> None:
    """PCI Express Base 5.0, section 6.1.4.5."""
    function = BareFunction()
    function.control(msix.ENABLE | msix.FUNCTION_MASK)
    line = function.interrupts.line(1)
    line.level = True
    assert function.pending == b"\x02"
    line.level = False
    assert function.pending == b"\0"
    line.level = True
    assert function.pending == b"\x02"
    function.control(msix.ENABLE)
    assert function.client.interrupts == [(Irq.MSIX, 1)]


def test_a_pending_message_of_two_lines_waits_for_both() -> None:
    function = BareFunction(messages=4)
    function.msi_control(MSI_ON)
    function.client.masked.add((Irq.MSI, 0))
    first, second = function.interrupts.line(0), function.interrupts.line(1)
    first.level = second.level = True
    assert function.interrupts.msi[0].pending
    first.level = False
    assert function.interrupts.msi[0].pending
    second.level = False
    assert not function.interrupts.msi[0].pending


def test_a_reset_takes_lines_down() -> None:
    function = BareFunction()
    line = function.interrupts.line(0)
    line.level = True
    function.interrupts.lower()
    function.interrupts.reset()
    assert not line.level
    assert not function.interrupts.intx.level
    line.level = True
    assert function.interrupts.intx.level


def test_lines_without_an_interrupt_pin_do_not_raise_intx() -> None:
    function = BareFunction(pin=0)
    assert not function.interrupts.line(0).send()
    assert not function.status
    assert function.client.interrupts == []


def test_numbers_of_lines() -> None:
    interrupts = BareFunction().interrupts
    with pytest.raises(ValueError, match=r"line\(4\).*0 to 3; declare vectors = 5, or use a num"):
        interrupts.line(4)
    with pytest.raises(ValueError, match=r"line\(-1\)"):
        interrupts.line(-1)


class Lines(RuleBasedStateMachine):
    """Every event and every switch in any order, against sets of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.function = BareFunction()
        self.up: set[int] = set()
        self.untold: set[int] = set()  # up, and neither sent nor pending
        self.pending: set[int] = set()
        self.enabled = self.function_mask = False
        self.bus_master = True

    def told(self, numbers: set[int]) -> None:
        """Take note of events that MSI-X is asked to send."""
        if not (self.enabled and self.bus_master):
            return
        self.untold -= numbers
        masked = {number for _, number in self.function.client.masked}
        waiting = numbers if self.function_mask else numbers & masked
        self.pending |= waiting

    def unmasked(self) -> None:
        masked = {number for _, number in self.function.client.masked}
        if self.enabled and self.bus_master and not self.function_mask:
            self.pending &= masked

    @rule(number=st.integers(0, VECTORS - 1), level=st.booleans())
    def move(self, number: int, level: bool) -> None:
        self.function.interrupts.line(number).level = level
        if not level:
            for each in (self.up, self.untold, self.pending):
                each.discard(number)
        elif number not in self.up:
            self.up.add(number)
            self.untold.add(number)
            self.told({number})

    @rule(number=st.integers(0, VECTORS - 1))
    def send(self, number: int) -> None:
        self.function.interrupts.line(number).send()
        self.up.add(number)
        if self.enabled and not self.bus_master:
            self.untold.add(number)
        self.told({number})

    @rule(enabled=st.booleans(), function_mask=st.booleans())
    def control(self, enabled: bool, function_mask: bool) -> None:
        if enabled != self.enabled:
            self.untold = set(self.up)
            self.pending.clear()
        self.enabled, self.function_mask = enabled, function_mask
        self.function.control(msix.ENABLE * enabled | msix.FUNCTION_MASK * function_mask)
        self.unmasked()
        self.told(set(self.untold))

    @rule(on=st.booleans())
    def master(self, on: bool) -> None:
        self.bus_master = on
        self.function.command(Command.MEMORY_SPACE | Command.BUS_MASTER * on)
        self.unmasked()
        self.told(set(self.untold))

    @rule(number=st.integers(0, VECTORS - 1), masked=st.booleans())
    def mask(self, number: int, masked: bool) -> None:
        key = (int(Irq.MSIX), number)
        self.function.client.masked.discard(key)
        if masked:
            self.function.client.masked.add(key)
        else:
            self.function.interrupts.unmasked(Irq.MSIX, number)
            self.unmasked()

    @invariant()
    def pending_bits_are_exact(self) -> None:
        assert self.function.pending == bytes((sum(1 << number for number in self.pending),))

    @invariant()
    def intx_is_the_or_of_the_lines(self) -> None:
        assert self.function.interrupts.intx.level == (bool(self.up) and not self.enabled)

    def teardown(self) -> None:
        """Whatever is up has been told when software has enabled everything."""
        sent = len(self.function.client.interrupts)
        self.function.client.masked.clear()
        self.function.command(ON)
        self.function.control(0)
        self.function.control(msix.ENABLE)
        messages = {number for irq, number in self.function.client.interrupts[sent:] if irq}
        assert messages >= self.up


Lines.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=30, deadline=None
)
TestLines = Lines.TestCase
