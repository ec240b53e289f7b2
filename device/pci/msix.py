# SPDX-License-Identifier: Apache-2.0
"""MSI-X capability (PCI Local Bus 3.0, section 6.8.2)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import Capability

TABLE_ENTRY_SIZE = 16
MAX_VECTORS = 2048
MESSAGE_CONTROL = 0x02  # from the capability's start
ENABLE = 1 << 15
FUNCTION_MASK = 1 << 14
_OFFSET_ALIGNMENT = 8


def table_size(vectors: int) -> int:
    """Return the bytes of the table."""
    return vectors * TABLE_ENTRY_SIZE


def pba_size(vectors: int) -> int:
    """Return the bytes of the pending bits, which come in 64s."""
    return (vectors + 63) // 64 * 8


class MsiX(Capability):
    """Where table and pending bits are. The client (QEMU) emulates the table."""

    id = 0x11

    def __init__(
        self,
        vectors: int,
        table_bar: int,
        pba_bar: int,
        pba_offset: int = 0,
        table_offset: int = 0,
    ) -> None:
        """Raise ValueError for vectors out of 1 to 2048, and an offset off its 8 bytes."""
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} MSI-X vectors: 1 to {MAX_VECTORS} can be had")
        for what, offset in ("table", table_offset), ("pending bits", pba_offset):
            if offset < 0 or offset % _OFFSET_ALIGNMENT:
                raise ValueError(f"MSI-X {what} at {offset:#x}: a multiple of 8 is needed")
        self._vectors = vectors
        self._table = table_bar | table_offset
        self._pba = pba_bar | pba_offset

    def body(self) -> bytes:
        """Return Message Control, table and PBA locations."""
        return struct.pack("<HII", self._vectors - 1, self._table, self._pba)

    def write_mask(self) -> bytes:
        """MSI-X Enable and Function Mask can be written."""
        return struct.pack("<HII", ENABLE | FUNCTION_MASK, 0, 0)
