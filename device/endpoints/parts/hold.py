"""HOLD and STEP: a DMA that moves a few bytes at each word of software, to be looked at in flight.

Every step asks the bus anew. So a mapping that goes, or bus mastering that ends, ends the DMA.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from device.endpoints.bus import DmaRefused
from device.endpoints.registers import Access, Register, RegisterFile
from device.layout import HOLD_ON, DmaReason, Ext

from .transfer import Ended, Transfer

_REGISTERS = (
    Register(Ext.HOLD, Access.RW, mask=HOLD_ON),
    Register(Ext.STEP, Access.WO),
    *(Register(each) for each in (Ext.HELD_MOVED, Ext.HELD_LEFT)),
    *(Register(each) for each in (Ext.ABORT_REASON, Ext.ABORT_MOVED)),
)


class Hold:
    """At most one DMA in flight.

    ``move`` moves a part and returns its bytes, ``ended`` gets the result, ``pending`` learns
    whether a DMA is in flight.
    """

    def __init__(
        self,
        extension: RegisterFile,
        *,
        move: Callable[[Transfer], bytes],
        ended: Ended,
        pending: Callable[[bool], None],
    ) -> None:
        self._extension = extension
        self._move, self._ended, self._pending = move, ended, pending
        self._transfer: Transfer | None = None
        self._moved = 0
        self._crc = 0
        self._abort_reason, self._abort_moved = DmaReason.NONE, 0
        extension.add(_REGISTERS, self)

    @property
    def on(self) -> bool:
        """Return whether the next DMA is to be held."""
        return bool(self._extension[Ext.HOLD] & HOLD_ON)

    @property
    def in_flight(self) -> bool:
        """Return whether a DMA is held."""
        return self._transfer is not None

    def begin(self, transfer: Transfer) -> None:
        """Hold a transfer of one segment; one without bytes ends at the first step."""
        self._transfer, self._moved, self._crc = transfer, 0, 0
        self._pending(True)

    def abort(self, reason: DmaReason) -> None:
        """End the DMA in flight, if there is one, with what it has moved."""
        if self._transfer is not None:
            self._abort_reason, self._abort_moved = reason, self._moved
            self._end(reason)

    def write_hold(self, value: int) -> None:
        """Let the rest of a DMA go when HOLD is cleared."""
        if not value & HOLD_ON and self._transfer is not None:
            self.write_step(self._transfer.length)

    def write_step(self, value: int) -> None:
        """Move up to ``value`` bytes of the DMA in flight."""
        transfer = self._transfer
        if transfer is None:
            return
        length = min(value, transfer.length - self._moved)
        try:
            data = self._move(transfer.part(self._moved, length))
        except DmaRefused as refusal:
            self.abort(refusal.reason)
            return
        self._crc = zlib.crc32(data, self._crc)
        self._moved += length
        if self._moved == transfer.length:
            self._end(DmaReason.NONE)

    def _end(self, reason: DmaReason) -> None:
        transfer, self._transfer = self._transfer, None
        self._pending(False)
        if transfer is not None:
            self._ended(transfer, reason, self._moved, self._crc)

    def read_held_moved(self) -> int:
        """Return the bytes that the DMA in flight has moved; 0 without one."""
        return self._moved if self._transfer is not None else 0

    def read_held_left(self) -> int:
        """Return the bytes that it has yet to move; 0 without one."""
        return self._transfer.length - self._moved if self._transfer is not None else 0

    def read_abort_reason(self) -> int:
        """Return why the last DMA that was cut short was. It outlives resets, as records do not."""
        return self._abort_reason

    def read_abort_moved(self) -> int:
        """Return the bytes that it had moved."""
        return self._abort_moved
