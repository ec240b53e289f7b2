# SPDX-License-Identifier: Apache-2.0
"""A card with two functions, and a device beside it. Each copies between memory and its BAR2."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Field,
    Fields,
    Flag,
    Identity,
    MemoryBar,
    MultiFunction,
    Register,
    RegisterBar,
)

SIZE = 4096  # bytes of BAR2, and the most of a copy


class Reg(IntEnum):
    """BAR0."""

    ADDRESS_LO = 0x00
    ADDRESS_HI = 0x04
    LENGTH = 0x08
    CONTROL = 0x0C
    STATUS = 0x10
    RESET_ALL = 0x14


class Result(IntEnum):
    """STATUS[1:0]."""

    IDLE = 0
    DONE = 1
    REFUSED = 2
    TOO_LONG = 3


class Control(Fields):
    """CONTROL: starts a copy from memory to BAR2, or from BAR2 to memory."""

    start = Flag(1 << 0, Access.SELF_CLEARING)
    to_memory = Flag(1 << 1, Access.RW)


class Status(Fields):
    """STATUS: how the last copy ended, and why its DMA was refused."""

    result = Field(0x3, Access.RO, type=Result)
    reason = Field(0xFF00, Access.RO)


class Copier(Endpoint):
    """The first function."""

    name = "front"
    identity = Identity(vendor_id=0x1234, device_id=0xF000, class_code=0x120000)
    vectors = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.ADDRESS_LO, Access.RW),
                Register(Reg.ADDRESS_HI, Access.RW),
                Register(Reg.LENGTH, Access.RW),
                Register(Reg.CONTROL, Control),
                Register(Reg.STATUS, Status),
                Register(Reg.RESET_ALL, Access.WO),
            )
        ),
        2: MemoryBar(SIZE),
    }

    def write_control(self, value: int) -> None:
        """Copy, and send the interrupt."""
        control = Control(value)
        if not control.start:
            return
        registers = self.registers(0)
        registers[Reg.STATUS] = Result.IDLE  # who polls must not see how the last copy ended
        registers[Reg.STATUS] = self._copy(to_memory=control.to_memory)
        self.msix(0)

    def _copy(self, *, to_memory: bool) -> int:
        registers = self.registers(0)
        address = registers.pair(Reg.ADDRESS_LO, Reg.ADDRESS_HI)
        length = registers[Reg.LENGTH]
        if length > SIZE:
            return Result.TOO_LONG
        try:
            if to_memory:
                self.bus.write(address, bytes(self.memory(2)[:length]))
            else:
                self.memory(2)[:length] = self.bus.read(address, length)
        except DmaRefused as refusal:
            return Result.REFUSED | refusal.reason << 8
        return Result.DONE

    def write_reset_all(self, _value: int) -> None:
        """Reset all functions of the card."""
        if self.card is not None:
            self.card.reset()


class Back(Copier):
    """The other function."""

    name = "back"
    identity = Identity(vendor_id=0x1234, device_id=0xF001, class_code=0x120000)


class Beside(Copier):
    """A device in a slot of its own."""

    name = "beside"
    identity = Identity(vendor_id=0x1234, device_id=0xF002, class_code=0x120000)


class CopyCard(MultiFunction):
    """Function 0 and function 3: a driver must not count on adjacent numbers."""

    functions: ClassVar = {0: Copier, 3: Back}
