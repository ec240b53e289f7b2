# SPDX-License-Identifier: Apache-2.0
"""The record of DMAs, as BAR3 shows it: read when asked, so it costs nothing until then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import NamedTuple

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.dma import Attributes
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import DmaDirection, DmaReason, DmaStatus, Ext

_WORD = 0xFFFF_FFFF
# dataclasses.asdict() copies each value deeply, which took a third of a small DMA's time.
_SENT = tuple(field.name for field in fields(Attributes))
_sent_values = attrgetter(*_SENT)


class DmaRecord(NamedTuple):
    """One DMA as the device did it, or refused it. Lengths and offsets in bytes.

    ``address`` is the first segment's as it was asked for, ``used`` as it left the device, 0 when
    nothing did. ``sent`` has the attributes that vfio-user does not carry (*modelled*), and
    ``modelled_ns`` the time that the profile's device would take.
    """

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
    segments: int
    sent: Attributes
    used: int
    modelled_ns: int

    def event(self) -> dict[str, object]:
        """Return the record for the trace."""
        names = {
            "status": self.status.name,
            "reason": self.reason.name,
            "direction": self.direction.name,
        }
        return {
            **self._asdict(),
            **names,
            "address": hex(self.address),
            "used": hex(self.used),
            "sent": dict(zip(_SENT, _sent_values(self.sent), strict=True)),
        }


def _valid(value: int | None) -> int:
    return 0 if value is None else value | layout.RECORD_FIELD_VALID


_FIELDS: dict[Ext, Callable[[DmaRecord], int]] = {
    Ext.RECORD_SEQUENCE: lambda record: record.sequence,
    Ext.RECORD_STATUS: lambda record: record.status,
    Ext.RECORD_REASON: lambda record: record.reason,
    Ext.RECORD_ADDRESS_LO: lambda record: record.address & _WORD,
    Ext.RECORD_ADDRESS_HI: lambda record: record.address >> 32,
    Ext.RECORD_LENGTH: lambda record: record.length,
    Ext.RECORD_MOVED: lambda record: record.moved,
    Ext.RECORD_DIRECTION: lambda record: record.direction,
    Ext.RECORD_ATTRIBUTES: lambda record: record.attributes,
    Ext.RECORD_OFFSET: lambda record: record.offset,
    Ext.RECORD_CRC32: lambda record: record.crc32,
    Ext.RECORD_SEGMENTS: lambda record: record.segments,
    Ext.RECORD_PASID: lambda record: _valid(record.sent.pasid),
    Ext.RECORD_REQUESTER_ID: lambda record: _valid(record.sent.requester_id),
    Ext.RECORD_USED_LO: lambda record: record.used & _WORD,
    Ext.RECORD_USED_HI: lambda record: record.used >> 32,
    Ext.RECORD_TIME_LO: lambda record: record.modelled_ns & _WORD,
    Ext.RECORD_TIME_HI: lambda record: record.modelled_ns >> 32,
}


class Records:
    """The newest RECORD_CAPACITY records, and the count of all."""

    def __init__(self, extension: RegisterFile) -> None:
        self._records: deque[DmaRecord] = deque(maxlen=layout.RECORD_CAPACITY)
        self._extension = extension
        self.count = 0
        extension.add(
            (
                Register(Ext.RECORD_CAPACITY, reset=layout.RECORD_CAPACITY),
                Register(Ext.DMA_CRC32),
                Register(Ext.DMA_COUNT),
                Register(Ext.RECORD_LOST),
                Register(Ext.RECORD_SELECT, Access.RW),
                Register(Ext.RECORD_VALID),
                *(Register(each, read=self._reader(each)) for each in _FIELDS),
            ),
            self,
        )

    def reset(self) -> None:
        """Forget the DMAs."""
        self._records.clear()
        self.count = 0

    def add(self, record: DmaRecord) -> None:
        """Keep a record, whose sequence is one more than ``count``."""
        self.count += 1
        self._records.append(record)

    def _selected(self) -> DmaRecord | None:
        sequence = self._extension[Ext.RECORD_SELECT]
        oldest = self.count - len(self._records) + 1
        if not oldest <= sequence <= self.count:
            return None
        return self._records[sequence - oldest]

    def _reader(self, register: Ext) -> Callable[[], int]:
        field = _FIELDS[register]

        def read() -> int:
            record = self._selected()
            return 0 if record is None else field(record)

        return read

    def read_dma_crc32(self) -> int:
        """Return the CRC-32 of the last DMA's bytes; 0 after one that was refused."""
        return self._records[-1].crc32 if self._records else 0

    def read_dma_count(self) -> int:
        """Return how many DMAs ended since reset, refused ones included."""
        return self.count

    def read_record_lost(self) -> int:
        """Return how many records were overwritten."""
        return self.count - len(self._records)

    def read_record_valid(self) -> int:
        """Return 1 when the selected record is held."""
        return int(self._selected() is not None)
