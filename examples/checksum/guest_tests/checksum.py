# SPDX-License-Identifier: Apache-2.0
"""The checksum engine's driver: what a program does with the device of the tutorial."""

from __future__ import annotations

import time
from enum import IntEnum

from dma_rehearsal.guest.drivers.exerciser import Interrupt
from dma_rehearsal.guest.drivers.pci_sysfs import PciError, PciFunction
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction

VENDOR, DEVICE = 0x1234, 0xC5C5
TIMEOUT_S = 5.0


class Reg(IntEnum):
    """BAR0, as the device lays it out."""

    ADDRESS_LO = 0x00
    ADDRESS_HI = 0x04
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


class ChecksumEngine:
    """1234:c5c5, found by its id and bound to the kernel driver. A context manager."""

    def __init__(self) -> None:
        self.pci = PciFunction.find(VENDOR, DEVICE)
        self.pci.bind()
        node = self.pci.driver_node()
        if node is None:
            raise PciError(f"{self.pci.address} has no device file")
        self.driver = DriverFunction(node)
        self.driver.set_bus_master(True)
        self._registers = self.pci.bar(0)
        self._done = Interrupt(self.driver, 0)

    def sum(self, address: int, length: int) -> tuple[Result, int, int]:
        """Sum up memory; return the result, the reason of a refusal, and the CRC-32."""
        registers = self._registers
        registers.set64(Reg.ADDRESS_LO, address)
        registers[Reg.LENGTH] = length
        registers[Reg.DOORBELL] = 1
        if self.driver.info().bus_master and not self._done.wait(TIMEOUT_S):
            raise PciError(f"{self.pci.address}: no interrupt within {TIMEOUT_S} s")
        deadline = time.monotonic() + TIMEOUT_S
        while not (status := registers[Reg.STATUS]) & 3:
            if time.monotonic() > deadline:
                raise PciError(f"{self.pci.address}: STATUS reads {status:#x}")
        return Result(status & 3), status >> 8, registers[Reg.CRC32]

    def __enter__(self) -> ChecksumEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.close()
        self.driver.close()
        self.pci.close()
