"""MSI-X capability (PCI Local Bus 3.0, section 6.8.2)."""

from __future__ import annotations

import struct

from .config import ConfigSpace

TABLE_ENTRY_SIZE = 16
MAX_VECTORS = 2048
MESSAGE_CONTROL = 0x02  # from the capability's start
ENABLE = 1 << 15
_FUNCTION_MASK = 1 << 14


class MsiX:
    """Table and pending bits at the start of a BAR each. The client (QEMU) emulates the table."""

    id = 0x11

    def __init__(self, vectors: int, table_bar: int, pba_bar: int) -> None:
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} MSI-X vectors: 1 to {MAX_VECTORS} can be had")
        self._vectors = vectors
        self._table_bar = table_bar
        self._pba_bar = pba_bar

    def body(self) -> bytes:
        """Return Message Control, table and PBA locations."""
        return struct.pack("<HII", self._vectors - 1, self._table_bar, self._pba_bar)

    def write_mask(self) -> bytes:
        """MSI-X Enable and Function Mask can be written."""
        return struct.pack("<HII", ENABLE | _FUNCTION_MASK, 0, 0)

    def written(self, config: ConfigSpace, start: int) -> None:
        """The client acts on Message Control itself."""
