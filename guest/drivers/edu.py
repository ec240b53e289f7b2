# SPDX-License-Identifier: Apache-2.0
"""QEMU's teaching device ``edu`` (QEMU, docs/specs/edu.rst): DMA by a foreign device model.

This driver makes up for edu's gaps:

- edu reports no errors. A range that leaves its own 4 KiB makes QEMU touch QEMU's own memory, so
  the driver refuses such a range. The caller has to look at the bytes.
- edu clamps an address that has more bits than it drives, and then reaches other memory. The
  driver refuses such an address. edu does not state how many bits it drives (28, or the property
  ``dma_mask``): the caller must know.
- Each transfer takes 100 ms, whatever its length, and registers cannot be written meanwhile.

For a cache model edu is a foreign writer: only the caller can announce its DMA.
"""

from __future__ import annotations

import time
from enum import IntEnum, IntFlag
from typing import Final

from dma_rehearsal.guest.drivers.interrupts import Interrupt
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction

EDU_VENDOR_ID: Final = 0x1234
EDU_DEVICE_ID: Final = 0x11E8
IDENTIFICATION: Final = 0xED  # the low 16 bits; the version is above
IDENTIFICATION_MASK: Final = 0xFFFF
ADDRESS_BITS: Final = 28
BUFFER: Final = 0x40000  # its own buffer, as the DMA registers count
BUFFER_SIZE: Final = 4096
TIMEOUT: Final = 5.0  # seconds
_POLL: Final = 0.005


class EduReg(IntEnum):
    """Offsets in BAR0: 32 bits each, 64 bits from DMA_SOURCE on."""

    IDENTIFICATION = 0x00
    INTERRUPT_STATUS = 0x24
    INTERRUPT_ACKNOWLEDGE = 0x64
    DMA_SOURCE = 0x80
    DMA_DESTINATION = 0x88
    DMA_COUNT = 0x90
    DMA_COMMAND = 0x98


class EduCommand(IntFlag):
    """DMA_COMMAND."""

    START = 1 << 0  # reads 1 while a transfer is under way
    WRITE_MEMORY = 1 << 1
    INTERRUPT = 1 << 2


class EduError(PciError):
    """The device is another one, the request is beyond it, or its DMA does not end."""


class Edu(Closing):
    """1234:11e8, enabled, with bus mastering on. A context manager; not for several threads.

    ``address_bits`` is the number of address bits that it drives. ``EduError`` for another
    device.
    """

    def __init__(
        self, function: PciFunction | None = None, *, address_bits: int = ADDRESS_BITS
    ) -> None:
        self.pci = function or PciFunction.find(EDU_VENDOR_ID, EDU_DEVICE_ID)
        self.address_bits = address_bits
        self.pci.enable()
        self.pci.bus_master = True
        self._registers = self.pci.bar(0)
        self._driver: DriverFunction | None = None
        found = self._registers[EduReg.IDENTIFICATION]
        if found & IDENTIFICATION_MASK != IDENTIFICATION:
            self.close()
            raise EduError(f"{self.pci.address}: identification {found:#x} is not edu's")

    def read_memory(
        self, address: int, length: int, *, offset: int = 0, interrupt: bool = False
    ) -> None:
        """Move ``length`` bytes at bus ``address`` to ``offset`` of the device's buffer.

        With ``interrupt`` the device interrupts at the end of it (see `interrupts`). `EduError` for
        a range that it cannot drive, and when the transfer does not end in `TIMEOUT` seconds.
        """
        self._check(address, length, offset)
        self._run(address, BUFFER + offset, length, EduCommand(0), interrupt=interrupt)

    def write_memory(
        self, address: int, length: int, *, offset: int = 0, interrupt: bool = False
    ) -> None:
        """Move bytes the other way; see `read_memory`."""
        self._check(address, length, offset)
        command = EduCommand.WRITE_MEMORY
        self._run(BUFFER + offset, address, length, command, interrupt=interrupt)

    def interrupts(self) -> Interrupt:
        """Have the device's interrupt (INTx) signal an eventfd until that is closed.

        The driver masks INTx at each interrupt: `acknowledge` lets the next one through. `PciError`
        when the module dma_rehearsal does not take the function.
        """
        if self._driver is None:
            self.pci.bind()
            node = self.pci.driver_node()
            if node is None:
                raise EduError(f"{self.pci.address} has no file of the module dma_rehearsal")
            self._driver = DriverFunction(node)
        self._lower()
        return Interrupt(self._driver, 0)

    def acknowledge(self) -> None:
        """Take the device's line down, and let the next interrupt through."""
        self._lower()
        if self._driver is not None:
            self._driver.unmask()

    def close(self) -> None:
        """Unmap the BAR, and give the interrupt back."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None
        self.pci.close()

    def _lower(self) -> None:
        registers = self._registers
        registers[EduReg.INTERRUPT_ACKNOWLEDGE] = registers[EduReg.INTERRUPT_STATUS]

    def _check(self, address: int, length: int, offset: int) -> None:
        if not (offset >= 0 and 0 < length <= BUFFER_SIZE - offset):
            raise EduError(
                f"{self.pci.address}: {length} bytes at {offset} of its own buffer, which holds "
                f"{BUFFER_SIZE}"
            )
        if not 0 <= address <= (1 << self.address_bits) - length:
            raise EduError(
                f"{self.pci.address}: {length} bytes at {address:#x}: it drives "
                f"{self.address_bits} address bits, and would reach another address"
            )

    def _run(
        self, source: int, destination: int, length: int, command: EduCommand, *, interrupt: bool
    ) -> None:
        self._wait()  # it ignores another command meanwhile
        for register, value in (
            (EduReg.DMA_SOURCE, source),
            (EduReg.DMA_DESTINATION, destination),
            (EduReg.DMA_COUNT, length),
            (EduReg.DMA_COMMAND, command | EduCommand.START | EduCommand.INTERRUPT * interrupt),
        ):
            self._registers.store(register, value, 8)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while (command := self._registers[EduReg.DMA_COMMAND]) & EduCommand.START:
            if command == 0xFFFF_FFFF:
                raise EduError(f"{self.pci.address}: reads give all ones: the device is gone")
            if time.monotonic() > deadline:
                raise EduError(f"{self.pci.address}: a transfer does not end within {TIMEOUT} s")
            time.sleep(_POLL)
