# SPDX-License-Identifier: Apache-2.0
"""MSI-X's table and pending bits in the BARs of a function (PCI Local Bus 3.0, 6.8.2)."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.endpoints.bars import MsixBars
from dma_rehearsal.device.pci import msix

_VECTOR_CONTROL = 12  # of a table's entry
_MASKED = 1  # its bit 0; 1 at reset


class MsixRegion:
    """MSI-X's table and pending bits as their BARs show them, whatever else lies there.

    The table holds what is written to it, and has no effect: the client keeps the table that counts
    (`dma_rehearsal.device.endpoints.interrupts`). ``pending_bits`` gives a bit for each vector;
    software cannot write them.
    """

    def __init__(self, bars: MsixBars, vectors: int, pending_bits: Callable[[], int]) -> None:
        self.bars = bars
        self._pending_bits = pending_bits
        self._table = bytearray(msix.table_size(vectors))
        self._table_end = bars.table_offset + len(self._table)
        self._pba_size = msix.pba_size(vectors)
        self._pba_end = bars.pba_offset + self._pba_size
        self.reset()

    def reset(self) -> None:
        """Mask each vector, and forget address and data."""
        self._table[:] = bytes(len(self._table))
        self._table[_VECTOR_CONTROL :: msix.TABLE_ENTRY_SIZE] = bytes((_MASKED,)) * (
            len(self._table) // msix.TABLE_ENTRY_SIZE
        )

    def ranges(self) -> tuple[tuple[int, int, int, str], ...]:
        """Return the table's BAR, offset, bytes and name, then the pending bits'."""
        bars = self.bars
        table = bars.table, bars.table_offset, len(self._table), "MSI-X's table"
        return table, (bars.pba, bars.pba_offset, self._pba_size, "MSI-X's pending bits")

    def read(self, bar: int, offset: int, data: bytes) -> bytes:
        """Return what a read at ``offset`` of a BAR shows, in place of the BAR's own ``data``."""
        bars, end = self.bars, offset + len(data)
        if bar == bars.table and offset < self._table_end and end > bars.table_offset:
            data = _over(data, offset, self._table, bars.table_offset)
        if bar == bars.pba and offset < self._pba_end and end > bars.pba_offset:
            bits = self._pending_bits().to_bytes(self._pba_size, "little")
            data = _over(data, offset, bits, bars.pba_offset)
        return data

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Take what is written to the table."""
        if bar != self.bars.table:
            return
        start = self.bars.table_offset
        first, last = max(offset, start), min(offset + len(data), self._table_end)
        if first < last:
            self._table[first - start : last - start] = data[first - offset : last - offset]


def _over(data: bytes, offset: int, shown: bytes | bytearray, start: int) -> bytes:
    """Return ``data``, which lies at ``offset``, with what is ``shown`` from ``start`` on."""
    first, last = max(offset, start), min(offset + len(data), start + len(shown))
    middle = bytes(shown[first - start : last - start])
    return data[: first - offset] + middle + data[last - offset :]
