"""The built-in device: Arm's PCIe Exerciser, and what its layout lacks in BAR3.

A DMA runs within the register write that triggers it, so it is complete before that write is
acknowledged and before any later message of this client is answered.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from device import layout
from device.layout import (
    AddressType,
    DmaAttribute,
    DmaCtl,
    DmaDirection,
    DmaReason,
    DmaStatus,
    ExerciserBar,
    Ext,
    ExtFeature,
    Reg,
)
from device.pci.config import Identity
from device.pci.msix import MAX_VECTORS, TABLE_ENTRY_SIZE
from device.trace import Trace

from .base import Endpoint
from .bus import DmaRefused
from .registers import Access, Register

IDENTITY = Identity(
    vendor_id=layout.EXERCISER_VENDOR_ID,
    device_id=layout.EXERCISER_DEVICE_ID,
    class_code=layout.EXERCISER_CLASS_CODE,
    subsystem_vendor_id=layout.EXERCISER_SUBSYSTEM_VENDOR_ID,
    subsystem_id=layout.EXERCISER_SUBSYSTEM_ID,
    interrupt_pin=1,
)
BUFFER_MIN, BUFFER_MAX = 0x1000, 0x100_0000
_MIN_BAR = 0x1000
_TRACE_EMPTY = 0xFFFF_FFFF

_CONTROL = (
    Register(Reg.MSICTL, Access.WO),
    Register(Reg.INTXCTL, Access.RW, mask=layout.INTXCTL_ASSERT),
    Register(Reg.DMACTL, Access.RW, mask=0xFFF),
    Register(Reg.DMA_OFFSET, Access.RW),
    Register(Reg.DMA_BUS_ADDR_LO, Access.RW),
    Register(Reg.DMA_BUS_ADDR_HI, Access.RW),
    Register(Reg.DMA_LEN, Access.RW),
    Register(Reg.DMASTATUS, Access.W1C, mask=layout.DMASTATUS_CLEAR),
    Register(Reg.PASID_VAL, Access.RW, mask=0xFFFFF),
    Register(Reg.ATSCTL),
    Register(Reg.ATS_ADDR_LO),
    Register(Reg.ATS_ADDR_HI),
    Register(Reg.ATS_RANGE_SIZE),
    Register(Reg.ATS_PERM),
    Register(Reg.RID_CTL, Access.RW, mask=0x8000_FFFF),
    Register(Reg.TXN_TRACE, reset=_TRACE_EMPTY),
    Register(Reg.TXN_CTRL, Access.RW, mask=1),
    Register(Reg.VDM_CTL),
)
_FEATURES = ExtFeature.CRC | ExtFeature.RECORD


@dataclass(frozen=True, slots=True)
class DmaRecord:
    """One DMA as the device did it, or refused it. Lengths and offsets in bytes."""

    sequence: int
    status: DmaStatus
    reason: DmaReason
    address: int
    length: int
    moved: int
    direction: DmaDirection
    attributes: int
    offset: int
    crc32: int


_RECORD_FIELDS: dict[Ext, Callable[[DmaRecord], int]] = {
    Ext.RECORD_SEQUENCE: lambda record: record.sequence,
    Ext.RECORD_STATUS: lambda record: record.status,
    Ext.RECORD_REASON: lambda record: record.reason,
    Ext.RECORD_ADDRESS_LO: lambda record: record.address & 0xFFFF_FFFF,
    Ext.RECORD_ADDRESS_HI: lambda record: record.address >> 32,
    Ext.RECORD_LENGTH: lambda record: record.length,
    Ext.RECORD_MOVED: lambda record: record.moved,
    Ext.RECORD_DIRECTION: lambda record: record.direction,
    Ext.RECORD_ATTRIBUTES: lambda record: record.attributes,
    Ext.RECORD_OFFSET: lambda record: record.offset,
    Ext.RECORD_CRC32: lambda record: record.crc32,
}


def _bar_size(needed: int) -> int:
    """Return the smallest BAR, of at least 4 KiB, that holds ``needed`` bytes."""
    return max(_MIN_BAR, 1 << (needed - 1).bit_length())


class Exerciser(Endpoint):
    """13b5:ed01. ``buffer_size``: BAR1, a power of two, 4 KiB to 16 MiB; ``vectors``: 1 to 2048."""

    name = "exerciser"

    def __init__(
        self,
        trace: Trace,
        *,
        buffer_size: int = layout.BUFFER_SIZE_DEFAULT,
        vectors: int = layout.VECTORS_DEFAULT,
    ) -> None:
        """Raise ValueError for a size or a count that is out of range."""
        if not BUFFER_MIN <= buffer_size <= BUFFER_MAX or buffer_size & (buffer_size - 1):
            raise ValueError(f"buffer size {buffer_size}: a power of two, 4096 to {BUFFER_MAX}")
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} vectors: 1 to {MAX_VECTORS} can be had")
        super().__init__(
            IDENTITY,
            {
                ExerciserBar.CONTROL: layout.CONTROL_SIZE,
                ExerciserBar.BUFFER: buffer_size,
                ExerciserBar.MSIX_TABLE: _bar_size(vectors * TABLE_ENTRY_SIZE),
                ExerciserBar.EXTENSION: layout.EXTENSION_SIZE,
                ExerciserBar.MSIX_PBA: _bar_size((vectors + 63) // 64 * 8),
            },
            trace=trace,
            vectors=vectors,
            table_bar=ExerciserBar.MSIX_TABLE,
            pba_bar=ExerciserBar.MSIX_PBA,
        )
        self.buffer = self.add_memory(ExerciserBar.BUFFER).data
        self.add_memory(ExerciserBar.MSIX_TABLE)
        self.add_memory(ExerciserBar.MSIX_PBA, read_only=True)
        self.control = self.add_registers(ExerciserBar.CONTROL, _CONTROL)
        self._records: deque[DmaRecord] = deque(maxlen=layout.RECORD_CAPACITY)
        self._count = 0
        self._last_crc = 0
        self.extension = self.add_registers(
            ExerciserBar.EXTENSION,
            (
                Register(Ext.MAGIC, reset=layout.EXT_MAGIC),
                Register(Ext.VERSION, reset=layout.EXT_VERSION),
                Register(Ext.FEATURES, reset=_FEATURES),
                Register(Ext.BUFFER_SIZE, reset=buffer_size),
                Register(Ext.RECORD_CAPACITY, reset=layout.RECORD_CAPACITY),
                Register(Ext.DMA_CRC32),
                Register(Ext.DMA_COUNT),
                Register(Ext.RECORD_LOST),
                Register(Ext.RECORD_SELECT, Access.RW),
                Register(Ext.RECORD_VALID),
                *(Register(each, read=self._record_reader(each)) for each in _RECORD_FIELDS),
            ),
        )

    def on_reset(self) -> None:
        """Forget the DMAs."""
        self._records.clear()
        self._count = 0
        self._last_crc = 0

    # Interrupts.

    def write_msictl(self, value: int) -> None:
        """Send the MSI-X message of a vector when the trigger bit is written."""
        if value & layout.MSICTL_TRIGGER:
            self.msix(value & layout.MSICTL_VECTOR)

    def write_intxctl(self, value: int) -> None:
        """Assert or deassert the legacy interrupt."""
        self.intx(bool(value & layout.INTXCTL_ASSERT))

    # DMA.

    def write_dmactl(self, value: int) -> None:
        """Run a DMA when the trigger is written; the trigger clears itself."""
        self.control[Reg.DMACTL] = value & ~int(DmaCtl.TRIGGER_MASK)
        if value & DmaCtl.TRIGGER_MASK == DmaCtl.TRIGGER:
            self._run_dma(value)

    def write_dmastatus(self, value: int) -> None:
        """Clear the status by writing 1 to bit 2."""
        if value & layout.DMASTATUS_CLEAR:
            self.control[Reg.DMASTATUS] = DmaStatus.OK

    def _run_dma(self, dmactl: int) -> None:
        address = self.control.pair(Reg.DMA_BUS_ADDR_LO, Reg.DMA_BUS_ADDR_HI)
        length = self.control[Reg.DMA_LEN]
        offset = self.control[Reg.DMA_OFFSET]
        write = bool(dmactl & DmaCtl.WRITE_MEMORY)
        direction = DmaDirection.WRITE_MEMORY if write else DmaDirection.READ_MEMORY
        status, reason, moved, crc = DmaStatus.OK, DmaReason.NONE, length, 0
        try:
            self._check(dmactl, address, offset, length)
            direction, data = self.transfer(direction, address, offset, length)
            crc = zlib.crc32(data)
        except DmaRefused as refusal:
            reason, moved = refusal.reason, 0
            ranged = reason is DmaReason.BUFFER_RANGE
            status = DmaStatus.RANGE if ranged else DmaStatus.INTERNAL
        self._count += 1
        self._last_crc = crc
        self.control[Reg.DMASTATUS] = status
        record = DmaRecord(
            self._count & 0xFFFF_FFFF,
            status,
            reason,
            address,
            length,
            moved,
            direction,
            self._attributes(dmactl),
            offset,
            crc,
        )
        self._records.append(record)
        named = {"status": status.name, "reason": reason.name, "direction": direction.name}
        self.trace.event(self.name, "dma", **{**asdict(record), **named})

    def _check(self, dmactl: int, address: int, offset: int, length: int) -> None:
        """Refuse what never reaches the bus."""
        if offset + length > len(self.buffer):
            raise DmaRefused(DmaReason.BUFFER_RANGE, address)
        address_type = AddressType((dmactl & DmaCtl.AT_MASK) >> 10)
        translated = address_type is AddressType.TRANSLATED
        if address_type is AddressType.RESERVED or (translated and dmactl & DmaCtl.USE_ATC):
            raise DmaRefused(DmaReason.RESERVED_ADDRESS_TYPE, address)
        if dmactl & DmaCtl.USE_ATC:
            raise DmaRefused(DmaReason.NO_ATC_ENTRY, address)

    def transfer(
        self, direction: DmaDirection, address: int, offset: int, length: int
    ) -> tuple[DmaDirection, bytes]:
        """Move the data; return what was done and the bytes. DmaRefused moves nothing."""
        if direction is DmaDirection.WRITE_MEMORY:
            data = bytes(self.buffer[offset : offset + length])
            self.bus.write(address, data)
        else:
            data = self.bus.read(address, length)
            self.buffer[offset : offset + length] = data
        return direction, data

    def _attributes(self, dmactl: int) -> int:
        attributes = (dmactl & DmaCtl.AT_MASK) >> 10 << 8
        if dmactl & DmaCtl.NO_SNOOP:
            attributes |= DmaAttribute.NO_SNOOP_ASKED
            if self.no_snoop_enabled:
                attributes |= DmaAttribute.NO_SNOOP
        if dmactl & DmaCtl.PASID:
            attributes |= DmaAttribute.PASID
        if dmactl & DmaCtl.USE_ATC:
            attributes |= DmaAttribute.USE_ATC
        return attributes

    # BAR3: read when asked, so that a record costs nothing until somebody looks at it.

    def _selected(self) -> DmaRecord | None:
        sequence = self.extension.values[Ext.RECORD_SELECT]
        oldest = self._count - len(self._records) + 1
        if not oldest <= sequence <= self._count:
            return None
        return self._records[sequence - oldest]

    def _record_reader(self, register: Ext) -> Callable[[], int]:
        field = _RECORD_FIELDS[register]

        def read() -> int:
            record = self._selected()
            return 0 if record is None else field(record)

        return read

    def read_dma_crc32(self) -> int:
        """Return the CRC-32 of the last DMA's bytes; 0 after one that was refused."""
        return self._last_crc

    def read_dma_count(self) -> int:
        """Return how many DMAs ended since reset, refused ones included."""
        return self._count

    def read_record_lost(self) -> int:
        """Return how many records were overwritten."""
        return self._count - len(self._records)

    def read_record_valid(self) -> int:
        """Return 1 when the selected record is held."""
        return int(self._selected() is not None)
