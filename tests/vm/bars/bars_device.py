# SPDX-License-Identifier: Apache-2.0
"""A device with each kind of BAR, for a guest that looks at them: 1234:ba25."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    CallbackBar,
    Endpoint,
    Identity,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    Register,
    Registers,
    Rom,
    Trace,
)

IDENTITY = Identity(vendor_id=0x1234, device_id=0xBA25, class_code=0xFF0000)
GIB = 1 << 30
ROM_DATA = b"the data of the ROM " * 200


class Reg(IntEnum):
    """The registers at the start of BAR2."""

    SCRATCH = 0x00
    RING = 0x04  # sends the vector of its number


class Port(IntEnum):
    """The registers of BAR4, in I/O space."""

    SCRATCH = 0x00
    INDEX = 0x04  # of a byte in the memory of BAR0
    DATA = 0x08  # that byte


class EachKind(Endpoint):
    """Memory of 8 GiB, a BAR of several parts, I/O space and a ROM."""

    name = "each-kind"
    identity = IDENTITY
    bars: ClassVar[Bars] = {
        0: MemoryBar(8 * GIB, bits=64, prefetchable=True),
        2: MixedBar(
            0x10000,
            {
                0x0000: Registers(
                    (Register(Reg.SCRATCH, Access.RW), Register(Reg.RING, Access.WO))
                ),
                0x1000: MemoryBar(0x1000),
                0x2000: MemoryBar(0x1000, read_only=True),
                0x5000: CallbackBar(0x1000),
            },
            bits=64,
        ),
        4: IoBar(
            (
                Register(Port.SCRATCH, Access.RW),
                Register(Port.INDEX, Access.RW),
                Register(Port.DATA, Access.RW),
            ),
            size=32,
            prefix="port",
        ),
    }
    vectors = 4
    msix_bars = MsixBars(table=2, table_offset=0x3000, pba=2, pba_offset=0x4000)
    rom = Rom.holding(ROM_DATA, IDENTITY)

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.on_reset()

    def on_reset(self) -> None:
        """Fill what only the device writes."""
        self.memory(2, at=0x2000)[:9] = b"read only"
        self.last = bytes(8)

    def write_ring(self, value: int) -> None:
        """Send a message."""
        self.msix(value)

    def read_port_data(self) -> int:
        """Return a byte of BAR0, as BAR4 shows it."""
        return self.memory(0)[self.registers(4)[Port.INDEX]]

    def write_port_data(self, value: int) -> None:
        """Store a byte in BAR0."""
        self.memory(0)[self.registers(4)[Port.INDEX]] = value & 0xFF

    def read_bar2(self, offset: int, length: int) -> bytes:
        """Return the offset, and what was written last."""
        return (offset.to_bytes(4, "little") + self.last)[:length]

    def write_bar2(self, offset: int, data: bytes) -> None:
        """Take note of the last write."""
        del offset
        self.last = data
