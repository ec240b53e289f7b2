# SPDX-License-Identifier: Apache-2.0
"""Synthetic page tables, made entry by entry."""

from __future__ import annotations

import struct

PAGE, LARGE, HUGE = 1 << 12, 1 << 21, 1 << 30
PRESENT, WRITABLE, USER, PWT, PCD = 1, 2, 4, 8, 16
PS, PAT_4K, PAT_LARGE, NX = 1 << 7, 1 << 7, 1 << 12, 1 << 63
TABLE = PRESENT | WRITABLE | USER


class Tables:
    """Page tables in a dictionary of pages; the root is at 0x1000."""

    def __init__(self, levels: int = 4) -> None:
        self.levels = levels
        self.root = 0x1000
        self.reads: list[int] = []
        self._pages: dict[int, bytearray] = {self.root: bytearray(PAGE)}
        self._next = 0x2000

    def read(self, address: int, length: int) -> bytes:
        """Read memory, for a witness. KeyError becomes the test's failure."""
        self.reads.append(address)
        if address not in self._pages:
            from dma_rehearsal.device.platform.witness import TableUnreachable

            raise TableUnreachable(hex(address))
        return bytes(self._pages[address][:length])

    def _entry(self, table: int, index: int) -> int:
        value: int = struct.unpack_from("<Q", self._pages[table], 8 * index)[0]
        return value

    def put(self, table: int, index: int, value: int) -> None:
        """Store an entry."""
        struct.pack_into("<Q", self._pages[table], 8 * index, value)

    def map(
        self, va: int, physical: int, flags: int = TABLE, *, level: int = 1, upper: int = TABLE
    ) -> tuple[int, int]:
        """Map a page at ``level`` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB); return table and index."""
        table = self.root
        for depth in range(self.levels, level, -1):
            index = va >> 12 + 9 * (depth - 1) & 0x1FF
            if not self._entry(table, index):
                self._pages[self._next] = bytearray(PAGE)
                self.put(table, index, self._next | upper)
                self._next += PAGE
            table = self._entry(table, index) & 0x000F_FFFF_FFFF_F000
        index = va >> 12 + 9 * (level - 1) & 0x1FF
        self.put(table, index, physical | flags | (PS if level > 1 else 0))
        return table, index
