# SPDX-License-Identifier: Apache-2.0
"""The smallest server: `dma_rehearsal.device.vfio_user` alone, without this project's PCI devices.

``python -m examples.vfio_user_server SOCKET`` serves one function, 1234:5678. It has 4 KiB of
memory in BAR0, no interrupt and no DMA. A client, such as QEMU's ``vfio-user-pci``, reads and
writes it. To serve a device of your own, implement `DeviceModel`.
"""

from __future__ import annotations

import struct
import sys

from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.model import Client, Mappable
from dma_rehearsal.device.vfio_user.server import serve
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.work import Work

BAR0, CONFIG = 0, 7  # region indices of VFIO
BAR0_SIZE, CONFIG_SIZE = 0x1000, 0x100


class Scratchpad:
    """A `DeviceModel`: the server calls these methods, all from one thread."""

    migration: Migration | None = None
    dma_ready = False

    def __init__(self) -> None:
        self.timers = Timers()
        self.posted = Work(self.timers)
        self.client: Client | None = None
        self._config = bytearray(CONFIG_SIZE)
        self._memory = bytearray(BAR0_SIZE)
        self.device_reset()

    def device_reset(self) -> None:
        """Clear memory and configuration space, but for the identity."""
        self._memory[:] = bytes(BAR0_SIZE)
        self._config[:] = struct.pack("<HH", 0x1234, 0x5678).ljust(CONFIG_SIZE, b"\0")
        self._config[0x0B] = 0xFF  # class code: a device that fits no other class

    def region_size(self, index: int) -> int:
        """Return the bytes of a region; 0 for one that the function does not have."""
        return {BAR0: BAR0_SIZE, CONFIG: CONFIG_SIZE}.get(index, 0)

    def region_mappable(self, index: int) -> Mappable | None:
        """Return None: the client may map nothing, and sends each access as a message."""
        del index
        return None

    def irq_count(self, index: int) -> int:
        """Return 0: the function has no interrupts."""
        del index
        return 0

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """Return bytes of a region; the server has checked the range."""
        return bytes(self._region(index)[offset : offset + length])

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """Store bytes in BAR0, and in the command register and BAR0's address."""
        if index == BAR0:
            self._memory[offset : offset + len(data)] = data
        for position, value in enumerate(data, offset):
            if index == CONFIG and position in (0x04, 0x11, 0x12, 0x13):
                # A write of all ones to BAR0 reads back its size: the low 12 bits stay 0.
                self._config[position] = value & (0xF0 if position == 0x11 else 0xFF)

    def _region(self, index: int) -> bytearray:
        return self._memory if index == BAR0 else self._config

    def attach(self, client: Client) -> None:
        """Keep the client: its ``memory`` reaches guest memory, its ``trigger`` interrupts."""
        self.client = client

    def detach(self) -> None:
        """Forget the client."""
        self.client = None

    def unmapped(self, address: int, length: int) -> None:
        """Ignore an unmap: no view of guest memory is kept."""

    def end_of_interrupt(self) -> None:
        """Ignore the end of an interrupt: there are none."""

    def message_unmasked(self, index: int, subindex: int) -> None:
        """Ignore an unmask: there are no messages."""

    def go_on(self) -> None:
        """Do nothing: no DMA is under way, as ``dma_ready`` says."""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.vfio_user_server SOCKET")
    serve(sys.argv[1], Scratchpad())
