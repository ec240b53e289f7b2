# SPDX-License-Identifier: Apache-2.0
"""The checksum engine's driver: one that polls, and one that waits for the interrupt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import IntEnum
from typing import Self

from dma_rehearsal.guest.drivers import DriverFunction, Interrupt, PciError, PciFunction
from dma_rehearsal.guest.iobuffer.base import dma_activity
from dma_rehearsal.guest.iobuffer.base.dma_activity import InFlight

VENDOR, DEVICE = 0x1234, 0xC5C5
START, SILENT = 1, 2  # DOORBELL
TIMEOUT_S = 5.0


class Reg(IntEnum):
    """BAR0, as the data sheet has it."""

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


class PolledEngine:
    """The engine without interrupts: start a job, then read STATUS until it is done."""

    def __init__(self) -> None:
        self.pci = PciFunction.find(VENDOR, DEVICE)
        self.pci.enable()
        self.pci.bus_master = True
        self.registers = self.pci.bar(0)
        self._jobs: list[InFlight] = []
        dma_activity.register(self)

    def sum(self, address: int, length: int) -> tuple[Result, int, int]:
        """Sum up memory; return the result, the reason of a refusal, and the CRC-32."""
        self.start(address, length, START | SILENT)
        deadline = time.monotonic() + TIMEOUT_S
        while not self.registers[Reg.STATUS] & 3:
            if time.monotonic() > deadline:
                raise PciError(f"{self.pci.address}: not done within {TIMEOUT_S} s")
        return self.outcome()

    def start(self, address: int, length: int, doorbell: int) -> None:
        """Write the job, and then the doorbell."""
        self._jobs = [InFlight(address, length, f"the checksum engine reads {address:#x}")]
        self.registers.set64(Reg.ADDRESS, address)
        self.registers[Reg.LENGTH] = length
        self.registers[Reg.DOORBELL] = doorbell

    def outcome(self) -> tuple[Result, int, int]:
        """Return what STATUS and CRC32 say of the last job, which has ended."""
        status = self.registers[Reg.STATUS]
        self._jobs = []
        return Result(status & 3), status >> 8, self.registers[Reg.CRC32]

    def in_flight(self) -> Iterable[InFlight]:
        """Tell the allocator what the engine may still read; it refuses to release that."""
        return self._jobs

    def close(self) -> None:
        """Stop the engine's DMA, and unmap its registers."""
        dma_activity.unregister(self)
        self.pci.bus_master = False
        self.pci.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InterruptEngine(PolledEngine):
    """The engine with its interrupt, which the kernel driver turns into an eventfd."""

    def __init__(self) -> None:
        super().__init__()
        self.pci.bind()
        node = self.pci.driver_node()
        if node is None:
            raise PciError(f"{self.pci.address} has no device file")
        self.driver = DriverFunction(node)
        self.driver.set_bus_master(True)
        self._done = Interrupt(self.driver, vector=0)

    def sum(self, address: int, length: int) -> tuple[Result, int, int]:
        """Sum up memory, as the polled engine does, and sleep until the interrupt."""
        self.start(address, length, START)
        if not self._done.wait(TIMEOUT_S):
            raise PciError(f"{self.pci.address}: no interrupt within {TIMEOUT_S} s")
        return self.outcome()

    def close(self) -> None:
        """Give the interrupt and the function back."""
        dma_activity.unregister(self)
        self._done.close()
        self.driver.close()
        self.pci.close()
