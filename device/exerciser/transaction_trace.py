# SPDX-License-Identifier: Apache-2.0
"""TXN_TRACE: what software did to the function's configuration space and BARs, as it arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dma_rehearsal.device.endpoints.endpoint import CONFIG_REGION
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import (
    TXN_ENABLE,
    TXN_SIZE_SHIFT,
    TXN_TRACE_CAPACITY,
    TXN_TRACE_EMPTY,
    ExerciserBar,
    Reg,
    TxnAttribute,
)

_WORD = 0xFFFF_FFFF
_DATA_SIZE = 8  # bytes of a transaction that the trace has room for
# Reading the trace would otherwise fill it.
_NOT_TRACED = (Reg.TXN_TRACE, Reg.TXN_CTRL)


class TransactionTrace:
    """The first transactions since monitoring began; what comes when it is full is not kept.

    ``address_of`` gives the bus address of a BAR; 0 stands for one that is not placed. For
    configuration space the address is the register's offset: vfio-user tells no bus number.
    """

    def __init__(self, control: RegisterFile, address_of: Callable[[int], int]) -> None:
        self._control, self._address_of = control, address_of
        self._words: deque[int] = deque()
        self._kept = 0
        control.add(
            (
                Register(Reg.TXN_TRACE, reset=TXN_TRACE_EMPTY),
                Register(Reg.TXN_CTRL, Access.RW, mask=TXN_ENABLE),
            ),
            self,
        )
        self._on = False

    def reset(self) -> None:
        """Stop monitoring and forget."""
        self._words.clear()
        self._on, self._kept = False, 0

    def write_txn_ctrl(self, value: int) -> None:
        """Start anew, or stop; what was traced can be read until the next start."""
        on = bool(value & TXN_ENABLE)
        if on and not self._on:
            self._words.clear()
            self._kept = 0
        self._on = on

    def read_txn_trace(self) -> int:
        """Return the next word; all ones when there is none."""
        return self._words.popleft() if self._words else TXN_TRACE_EMPTY

    def record(self, region: int, offset: int, data: bytes, *, write: bool) -> bool:
        """Keep a transaction, 2, 4 or 8 bytes as they came; return whether it was kept."""
        if not self._on or self._kept >= TXN_TRACE_CAPACITY:
            return False
        if region == ExerciserBar.CONTROL and offset & ~3 in _NOT_TRACED:
            return False
        self._kept += 1
        attributes = 1 << TXN_SIZE_SHIFT + min((len(data) - 1).bit_length(), 15)
        if not write:
            attributes |= TxnAttribute.READ
        address = offset
        if region == CONFIG_REGION:
            attributes |= TxnAttribute.CONFIG
        else:
            address += self._address_of(region)
        value = int.from_bytes(data[:_DATA_SIZE], "little")
        self._words += (attributes, address & _WORD, address >> 32, value & _WORD, value >> 32)
        return True
