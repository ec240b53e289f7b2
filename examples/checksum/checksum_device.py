# SPDX-License-Identifier: Apache-2.0
"""A device that sums up memory: the model that the tutorial builds.

Software writes an address and a length, then rings the doorbell. The device reads the memory by
DMA, leaves its CRC-32 in CRC32 and the outcome in STATUS, and sends MSI-X vector 0.
"""

import zlib
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

LENGTH_MAX = 16 << 20  # bytes; bounds the work of one doorbell


class Reg(IntEnum):
    """BAR0. Registers are little-endian, and of 32 bits but for ADDRESS."""

    ADDRESS = 0x00
    LENGTH = 0x08
    DOORBELL = 0x0C
    STATUS = 0x10
    CRC32 = 0x14


class Result(IntEnum):
    """STATUS[1:0]."""

    IDLE = 0
    DONE = 1
    REFUSED = 2
    TOO_LONG = 3


class Doorbell(Fields):
    """DOORBELL: starts a job; a silent job sends no interrupt."""

    start = Flag(1 << 0, Access.SELF_CLEARING)
    silent = Flag(1 << 1, Access.SELF_CLEARING)


class Status(Fields):
    """STATUS: how the last job ended, and why a DMA was refused (a `DmaReason`)."""

    result = Field(0x3, Access.RO, type=Result)
    reason = Field(0xFF00, Access.RO)


class Checksum(Endpoint):
    """1234:c5c5."""

    name = "checksum"
    identity = Identity(vendor_id=0x1234, device_id=0xC5C5, class_code=0x120000)
    vectors = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.ADDRESS, Access.RW, bits=64),
                Register(Reg.LENGTH, Access.RW),
                Register(Reg.DOORBELL, Doorbell),
                Register(Reg.STATUS, Status),
                Register(Reg.CRC32),
            )
        )
    }

    def write_doorbell(self, value: int) -> None:
        """Do a job. The method is called when software writes the register of its name."""
        doorbell = Doorbell(value)
        if not doorbell.start:
            return
        registers = self.registers(0)
        address = registers[Reg.ADDRESS]
        length = registers[Reg.LENGTH]
        registers[Reg.CRC32] = 0
        if length > LENGTH_MAX:
            registers[Reg.STATUS] = Result.TOO_LONG
        else:
            try:
                registers[Reg.CRC32] = zlib.crc32(self.bus.read(address, length))
                registers[Reg.STATUS] = Result.DONE
            except DmaRefused as refusal:
                registers[Reg.STATUS] = Result.REFUSED | refusal.reason << 8
        if not doorbell.silent:
            self.msix(0)
