# SPDX-License-Identifier: Apache-2.0
"""QEMU's edu for the rig: its registers, transfers that end at once, and its interrupt."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dma_rehearsal.guest.drivers.edu import (
    ADDRESS_BITS,
    BUFFER,
    BUFFER_SIZE,
    IDENTIFICATION,
    EduCommand,
    EduReg,
)


@dataclass
class EduModel:
    """One edu on ``ram``, also as sysfs and the module's PCI driver show it. Subclasses err."""

    ram: memoryview
    address_bits: int = ADDRESS_BITS
    address: str = "edu"
    bus_master: bool = False
    closed: bool = False
    registers: dict[int, int] = field(default_factory=dict)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER_SIZE))
    eventfd: int = -1
    masked: bool = True

    def __post_init__(self) -> None:
        self.registers[EduReg.IDENTIFICATION] = 0x0100_0000 | IDENTIFICATION

    # The function.

    def enable(self) -> None: ...

    def bind(self) -> None: ...

    def bar(self, _number: int) -> EduModel:
        return self

    def driver_node(self) -> Path:
        return Path("edu")

    def close(self) -> None:
        self.closed = True

    # BAR0.

    def __getitem__(self, offset: int) -> int:
        return self.registers.get(offset, 0)

    def __setitem__(self, offset: int, value: int) -> None:
        self.store(offset, value, 4)

    def store(self, offset: int, value: int, _size: int) -> None:
        if offset == EduReg.INTERRUPT_ACKNOWLEDGE:
            self.registers[EduReg.INTERRUPT_STATUS] = self[EduReg.INTERRUPT_STATUS] & ~value
            return
        self.registers[offset] = value
        if offset == EduReg.DMA_COMMAND and value & EduCommand.START:
            self.registers[offset] &= ~EduCommand.START
            self.transfer(value)
            if value & EduCommand.INTERRUPT:
                self.registers[EduReg.INTERRUPT_STATUS] = 0x100
                self.signal()

    def transfer(self, command: int) -> None:
        source, destination = self[EduReg.DMA_SOURCE], self[EduReg.DMA_DESTINATION]
        count, clamped = self[EduReg.DMA_COUNT], (1 << self.address_bits) - 1
        if command & EduCommand.WRITE_MEMORY:
            start, place = source - BUFFER, destination & clamped
            self.ram[place : place + count] = self.buffer[start : start + count]
        else:
            start, place = destination - BUFFER, source & clamped
            self.buffer[start : start + count] = self.ram[place : place + count]

    # The driver's file.

    def set_eventfd(self, _vector: int, fd: int) -> None:
        self.eventfd, self.masked = fd, fd < 0

    def unmask(self) -> None:
        self.masked = False

    def signal(self) -> None:
        if self.eventfd >= 0 and not self.masked:
            self.masked = True
            os.eventfd_write(self.eventfd, 1)
