# SPDX-License-Identifier: Apache-2.0
"""An endpoint that probes the protocol: DMA by register, BARs of each kind, a state to migrate."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints.bars import (
    Bars,
    CallbackBar,
    IoBar,
    MemoryBar,
    MixedBar,
    MsixBars,
    RegisterBar,
    Registers,
    Rom,
    SharedBar,
)
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.pci.config import Command, Identity

BUFFER = 0
SHARED = 1
MIXED = 2
PORTS = 4
SHARED_SIZE = 0x4000
AREAS = ((0, 0x1000), (0x2000, 0x1000))
STATE = 64
MOST = 1 << 24  # bytes that are written; making more of them would take long


class Reg(IntEnum):
    """BAR0."""

    GO = 0  # [30:0] bytes, [31] write: start a DMA at ``address``
    BUSY = 4
    CHAIN = 8  # how many DMAs each end of one starts


GO = Reg.GO


IDENTITY = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000, interrupt_pin=1)


class Port(IntEnum):
    """The registers in I/O space, and those of a part."""

    PLAIN = 0
    COUNTED = 4


class Prober(Endpoint):
    """DMA through the asynchronous bus; its bus mastering is always on."""

    name = "prober"
    identity = IDENTITY
    bars: ClassVar[Bars] = {
        BUFFER: RegisterBar(
            [Register(Reg.GO, Access.WO), Register(Reg.BUSY), Register(Reg.CHAIN, Access.RW)]
        ),
        SHARED: SharedBar(SHARED_SIZE, AREAS),
        MIXED: MixedBar(
            0x4000,
            {
                0x10: Registers([Register(Port.COUNTED, Access.WO)], prefix="mixed"),
                0x1000: MemoryBar(0x100),
                0x1100: CallbackBar(0x100),
                0x1200: MemoryBar(0x10, read_only=True),
            },
            bits=64,
            prefetchable=True,
        ),
        PORTS: IoBar([Register(Port.PLAIN, Access.RW), Register(Port.COUNTED, Access.WO)], 16),
    }
    vectors = 2
    msix_bars = MsixBars(MIXED, MIXED, 0x2020, 0x2000)
    rom = Rom.holding(b"rom", IDENTITY)
    state = (StatePart(SHARED, 0, STATE),)
    command_at_reset = Command.BUS_MASTER | Command.MEMORY_SPACE | Command.IO_SPACE

    def __init__(self) -> None:
        super().__init__()
        self.control = self.registers(BUFFER)
        self.window = self.shared(SHARED)
        self.as_new()

    def as_new(self) -> None:
        """Forget what happened, and what a reset keeps."""
        self.device_reset()
        if self.migration is not None:
            self.migration.reset()
        self.phases: list[str] = []
        self.address = 0x10000
        self.by_message = False
        self.outcome: bytes | DmaRefused | None = None
        self.done = 0
        self.counted = 0  # accesses with a side effect

    @property
    def moved(self) -> bool:
        """Return whether the last DMA was done."""
        return isinstance(self.outcome, bytes)

    def on_load(self) -> None:
        """Refuse some states."""
        if self.window.data[0] == 0xFF:
            raise ValueError("a state that begins with 0xff")

    def on_stopped(self) -> None:
        """Take note."""
        self.phases.append("stopped")

    def on_running(self) -> None:
        """Take note."""
        self.phases.append("running")

    def write_counted(self, _value: int) -> None:
        """Take note."""
        self.counted += 1

    write_mixed_counted = write_counted

    def read_bar2(self, offset: int, length: int) -> bytes:
        """Return the low byte of the offset, in each byte."""
        self.counted += 1
        return bytes((offset & 0xFF,)) * length

    def write_bar2(self, _offset: int, _data: bytes) -> None:
        """Take note."""
        self.counted += 1

    def write_go(self, value: int) -> None:
        """Start a DMA."""
        self.done, self.outcome = 0, None
        self.control[Reg.BUSY] = 1
        self._start(value)

    def _start(self, value: int) -> None:
        length = value & 0x7FFF_FFFF
        if value >> 31:
            length = min(length, MOST)
            data = bytes(range(256)) * (length // 256 + 1)
            self.bus.write_async(
                self.address, data[:length], self._finished, by_message=self.by_message
            )
        else:
            self.bus.read_async(self.address, length, self._finished, by_message=self.by_message)

    def _finished(self, outcome: bytes | DmaRefused) -> None:
        self.outcome = outcome
        self.done += 1
        chain = self.control[Reg.CHAIN]
        if chain:
            self.control[Reg.CHAIN] = chain - 1
            self._start(4)
        else:
            self.control[Reg.BUSY] = 0
