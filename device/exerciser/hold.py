# SPDX-License-Identifier: Apache-2.0
"""The DMA of DMACTL that is in flight, and HOLD and STEP, by which software looks at it there.

Theory of operation. Software, or the DMA's trigger itself, allows a number of bytes; what is
allowed is moved when the register access is done in mapped memory, and when the client answers
elsewhere. A DMA is in flight from its trigger until all of it was moved. Each move asks the bus
anew, so a mapping that goes, or bus mastering that ends, ends the DMA.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.exerciser.transfer import Ended, Moved, Transfer
from dma_rehearsal.device.layout import HOLD_ON, DmaDirection, DmaReason, Ext

_REGISTERS = (
    Register(Ext.HOLD, Access.RW, mask=HOLD_ON),
    Register(Ext.STEP, Access.WO),
    *(Register(each) for each in (Ext.HELD_MOVED, Ext.HELD_LEFT)),
    *(Register(each) for each in (Ext.ABORT_REASON, Ext.ABORT_MOVED)),
)


class Hold:
    """At most one DMA in flight.

    ``move`` moves a part, ``ended`` gets the result, ``cut`` is called for a DMA that does not end
    by the bus, ``changed`` is called when a DMA that software can see in flight begins or ends.
    """

    def __init__(
        self,
        extension: RegisterFile,
        *,
        move: Callable[[Transfer, Moved], None],
        ended: Ended,
        cut: Callable[[Transfer, DmaReason, int], None],
        changed: Callable[[], None],
    ) -> None:
        self._extension = extension
        self._move, self._ended, self._cut, self._changed = move, ended, cut, changed
        self._transfer: Transfer | None = None
        self._allowed = self._moved = self._crc = 0
        self._moving = self._seen = False
        self._abort_reason, self._abort_moved = DmaReason.NONE, 0
        extension.add(_REGISTERS, self)

    @property
    def on(self) -> bool:
        """Return whether the next DMA is to be held."""
        return bool(self._extension[Ext.HOLD] & HOLD_ON)

    @property
    def in_flight(self) -> bool:
        """Return whether a DMA is in flight."""
        return self._transfer is not None

    def begin(self, transfer: Transfer, *, held: bool) -> None:
        """Do a transfer of one segment. Held, one without bytes ends at the first step."""
        self._transfer = transfer
        self._allowed = self._moved = self._crc = 0
        self._moving = self._seen = False
        if not held:
            self._allow(transfer.length)

    def settle(self) -> None:
        """Take note that a register access is done: what is in flight now can be seen there."""
        if self._transfer is not None and not self._seen:
            self._seen = True
            self._changed()

    def abort(self, reason: DmaReason) -> None:
        """End the DMA in flight, if there is one, with what it is known to have moved."""
        if self._transfer is not None:
            self._cut(self._transfer, reason, self._moved)
            self._abort(self._transfer, reason)

    def _abort(self, transfer: Transfer, reason: DmaReason) -> None:
        if self._seen:
            self._abort_reason, self._abort_moved = reason, self._moved
        self._end(transfer, reason)

    def write_hold(self, value: int) -> None:
        """Let the rest of a DMA go when HOLD is cleared."""
        if not value & HOLD_ON and self._transfer is not None:
            self.write_step(self._transfer.length)

    def write_step(self, value: int) -> None:
        """Move up to ``value`` bytes more of the DMA in flight."""
        self._allow(value)

    def _allow(self, length: int) -> None:
        transfer = self._transfer
        if transfer is not None:
            self._allowed = min(self._allowed + length, transfer.length)
            self._go(transfer)

    def _go(self, transfer: Transfer) -> None:
        """Move what is allowed, unless a move is under way, at whose end this is called again."""
        if self._moving:
            return
        self._moving = True
        length = self._allowed - self._moved
        part = transfer if length == transfer.length else transfer.part(self._moved, length)
        self._move(part, partial(self._part_done, transfer, length))

    def _part_done(
        self, transfer: Transfer, length: int, direction: DmaDirection, outcome: bytes | DmaRefused
    ) -> None:
        if self._transfer is not transfer:
            return
        self._moving = False
        if isinstance(outcome, DmaRefused):
            self._abort(transfer, outcome.reason)
            return
        self._crc = zlib.crc32(outcome, self._crc)
        self._moved += length
        if self._moved == transfer.length:
            self._end(transfer.moved(direction), DmaReason.NONE)
        elif self._allowed > self._moved:
            self._go(transfer)

    def _end(self, transfer: Transfer, reason: DmaReason) -> None:
        self._transfer = None
        if self._seen:
            self._changed()
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
        """Return the bytes that it had moved; of a part that the client was asked for, none."""
        return self._abort_moved
