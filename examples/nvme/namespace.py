# SPDX-License-Identifier: Apache-2.0
"""A namespace's blocks, and what describes it and its controller (5.14, 5.15)."""

import mmap
import struct
import uuid
from pathlib import Path

from examples.nvme.layout import BLOCK, PAGE, TRANSFER_PAGES, VERSION, Status, check

EVENT_REQUESTS = 4  # Asynchronous Event Requests that may be outstanding
_FIRMWARE = b"1.0     "
LOG_PAGES = {
    1: bytes(64),  # no errors
    2: struct.pack("<xHBB", 310, 100, 10).ljust(512, b"\0"),  # kelvin; spare blocks in percent
    3: struct.pack("<B7x8s", 1, _FIRMWARE).ljust(512, b"\0"),  # firmware slots
}


class Namespace:
    """Blocks of 512 bytes, which outlive every reset.

    ``where``: bytes of memory, or the path of a file, which must keep its length.
    """

    def __init__(self, number: int, where: int | str) -> None:
        self._uuid = uuid.uuid5(uuid.NAMESPACE_DNS, f"nvme{number}.example.com").bytes
        if isinstance(where, int):
            self.data = mmap.mmap(-1, where)
        else:
            with Path(where).open("r+b") as file:
                self.data = mmap.mmap(file.fileno(), 0)
        self.blocks = len(self.data) // BLOCK

    def place(self, first: int, blocks: int) -> slice:
        """Return where blocks are in ``data``."""
        check(first + blocks <= self.blocks, Status.LBA_OUT_OF_RANGE)
        return slice(first * BLOCK, (first + blocks) * BLOCK)

    def identify(self) -> bytes:
        """Return Identify Namespace (5.15.2.1): sizes; deallocated blocks read 0; UUID; format."""
        sizes, shift = (self.blocks,) * 3, BLOCK.bit_length() - 1
        return struct.pack("<QQQ9xB70x16s10xB3965x", *sizes, 1, self._uuid, shift)

    def descriptors(self) -> bytes:
        """Return its identification descriptors (5.15.2.4): a UUID."""
        return struct.pack("<BB2x16s4076x", 3, 16, self._uuid)


def identify_controller(vendor: int, namespaces: int) -> bytes:
    """Return Identify Controller (5.15.2.2)."""
    data = bytearray(PAGE)
    for offset, form, *values in (
        (0, "HH20s", vendor, vendor, b"DMA-1".ljust(20)),
        (24, "40s8s", b"dma-rehearsal example".ljust(40), _FIRMWARE),
        (77, "BHI27xB", TRANSFER_PAGES.bit_length() - 1, 1, VERSION, 1),  # an I/O controller
        # 4 aborts; one firmware slot, read only; warning and critical temperature, in kelvin
        (258, "BBB5xHH", 3, EVENT_REQUESTS - 1, 3, 343, 353),
        # Queue entries; Write Zeroes, Deallocate; a volatile write cache: Flush means something
        (512, "BBxxIH3xB", 0x66, 0x44, namespaces, 0xC, 1),
        (768, "256s", b"nqn.2014-08.com.example:dma-rehearsal-nvme"),
        (2048, "H", 100),  # power state 0: 1 W
    ):
        struct.pack_into(f"<{form}", data, offset, *values)
    return bytes(data)
