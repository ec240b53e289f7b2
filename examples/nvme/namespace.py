# SPDX-License-Identifier: Apache-2.0
"""The blocks of a namespace, and the NVM command set's view of them."""

from __future__ import annotations

from examples.nvme.layout import BLOCK, CommandFailed, Status


class Blocks:
    """``count`` blocks of 512 bytes. They outlive every reset, as a disk's do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.data = bytearray(count * BLOCK)

    def check(self, start: int, count: int) -> None:
        """CommandFailed when a block of the range does not exist."""
        if start + count > self.count:
            raise CommandFailed(Status.LBA_OUT_OF_RANGE)

    def read(self, start: int, count: int) -> bytes:
        """Return a copy of blocks that exist."""
        return bytes(self.data[start * BLOCK : (start + count) * BLOCK])

    def write(self, start: int, data: bytes) -> None:
        """Store whole blocks that exist."""
        self.data[start * BLOCK : start * BLOCK + len(data)] = data

    def zero(self, start: int, count: int) -> None:
        """Have blocks that exist read 0."""
        self.data[start * BLOCK : (start + count) * BLOCK] = bytes(count * BLOCK)
