# SPDX-License-Identifier: Apache-2.0
"""A device that mirrors memory: the model for the kernel driver in ``driver/``.

Software writes two addresses and a length, then rings the doorbell. The device reads the source by
DMA, writes its bytes to the target in reverse, leaves the outcome in STATUS, and sends MSI-X
vector 0.
"""

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
    Register,
    RegisterBar,
)

LENGTH_MAX = 1 << 16  # bytes; bounds the work of one doorbell


class Reg(IntEnum):
    """BAR0. Registers are little-endian, and of 32 bits but for the addresses."""

    SOURCE = 0x00
    TARGET = 0x08
    LENGTH = 0x10
    DOORBELL = 0x14
    STATUS = 0x18


class Result(IntEnum):
    """STATUS[1:0]."""

    IDLE = 0
    DONE = 1
    REFUSED = 2
    TOO_LONG = 3


class Doorbell(Fields):
    """DOORBELL: starts a job."""

    start = Flag(1 << 0, Access.SELF_CLEARING)


class Status(Fields):
    """STATUS: how the last job ended, and why a DMA was refused (a `DmaReason`)."""

    result = Field(0x3, Access.RO, type=Result)
    reason = Field(0xFF00, Access.RO)


class Mirror(Endpoint):
    """1234:3141."""

    name = "mirror"
    identity = Identity(vendor_id=0x1234, device_id=0x3141, class_code=0x120000)
    vectors = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.SOURCE, Access.RW, bits=64),
                Register(Reg.TARGET, Access.RW, bits=64),
                Register(Reg.LENGTH, Access.RW),
                Register(Reg.DOORBELL, Doorbell),
                Register(Reg.STATUS, Status),
            )
        )
    }

    def write_doorbell(self, value: int) -> None:
        """Do a job. The method is called when software writes the register of its name."""
        if Doorbell(value).start:
            self.registers(0)[Reg.STATUS] = self._job()
            self.msix(0)

    def _job(self) -> int:
        registers = self.registers(0)
        length = registers[Reg.LENGTH]
        if length > LENGTH_MAX:
            return Result.TOO_LONG
        try:
            data = self.bus.read(registers[Reg.SOURCE], length)
            self.bus.write(registers[Reg.TARGET], data[::-1])
        except DmaRefused as refusal:
            return Result.REFUSED | refusal.reason << 8
        return Result.DONE
