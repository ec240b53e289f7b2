# SPDX-License-Identifier: Apache-2.0
"""A device of one's own: it fills memory when it is told to, and never raises an interrupt."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)

LENGTH_MAX = 1 << 16


class Reg(IntEnum):
    """BAR0. START takes address and length over, FINISH does that DMA; STATUS: 1 done."""

    ADDRESS_LO = 0x00
    ADDRESS_HI = 0x04
    LENGTH = 0x08
    START = 0x0C
    FINISH = 0x10
    STATUS = 0x14


class Engine(Endpoint):
    """1234:f111."""

    name = "engine"
    identity = Identity(vendor_id=0x1234, device_id=0xF111, class_code=0x120000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            tuple(
                Register(each) if each is Reg.STATUS else Register(each, Access.RW) for each in Reg
            )
        )
    }
    aim = (0, 0)

    def write_start(self, _value: int) -> None:
        """Take over where to."""
        registers = self.registers(0)
        length = min(registers[Reg.LENGTH], LENGTH_MAX)
        self.aim = registers.pair(Reg.ADDRESS_LO, Reg.ADDRESS_HI), length
        registers[Reg.STATUS] = 0

    def write_finish(self, _value: int) -> None:
        """Fill the memory. What was refused it keeps to itself, as devices do."""
        address, length = self.aim
        try:
            self.bus.write(address, b"\xa5" * length)
        except DmaRefused:
            return
        self.registers(0)[Reg.STATUS] = 1


class Lingering(Engine):
    """Does the last DMA once more, when everybody is about to go."""

    def on_detach(self) -> None:
        """Come late."""
        self.write_finish(1)


class Broken(Engine):
    """Has a bug."""

    def write_finish(self, _value: int) -> None:
        """Fail, which no driver notices: the write is posted."""
        raise ZeroDivisionError("a bug of the model")
