# SPDX-License-Identifier: Apache-2.0
"""Eight lines that software raises and serves, by MSI-X, MSI or INTx."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import Access, Bars, Endpoint, Identity, Register, RegisterBar

LINES = 8


class Reg(IntEnum):
    """BAR0: a bit for each line."""

    RAISE = 0x0
    STATUS = 0x4
    ACK = 0x8


class Lines(Endpoint):
    """The lines that are up are in STATUS; ACK takes them down."""

    identity = Identity(0x1234, 0x11E5, 0xFF0000, interrupt_pin=1)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (Register(Reg.RAISE, Access.WO), Register(Reg.STATUS), Register(Reg.ACK, Access.WO))
        )
    }
    vectors = LINES
    messages = LINES
    msi_masks = True

    def write_raise(self, value: int) -> None:
        """Take lines up."""
        self._show(self.registers(0)[Reg.STATUS] | value)

    def write_ack(self, value: int) -> None:
        """Take lines down."""
        self._show(self.registers(0)[Reg.STATUS] & ~value)

    def _show(self, up: int) -> None:
        self.registers(0)[Reg.STATUS] = up & (1 << LINES) - 1
        for number in range(LINES):
            self.interrupts.line(number).level = bool(up >> number & 1)
