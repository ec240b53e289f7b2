# SPDX-License-Identifier: Apache-2.0
"""HOLD's registers: whether actions of the other functions wait, and which wait now."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.hold_board import HoldBoard
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import Plat
from dma_rehearsal.device.vfio_user.timers import Timers

_ON = 1


class HoldRegisters:
    """Shows the board's waits. ``timers`` ends those that last too long."""

    def __init__(self, control: RegisterFile, board: HoldBoard, timers: Timers) -> None:
        self._board = board
        board.after = timers.resume_after
        control.add(
            (
                Register(Plat.HOLD_CTL, Access.RW, mask=_ON),
                Register(Plat.HELD),
                Register(Plat.HOLD_RELEASE, Access.WO),
                Register(Plat.HOLD_EXPIRED),
            ),
            self,
        )

    def reset(self) -> None:
        """Hold nothing, and let go what waits."""
        self._board.reset()

    def write_hold_ctl(self, value: int) -> None:
        """Hold actions from now on, or none."""
        self._board.set(bool(value & _ON))

    def read_held(self) -> int:
        """Return how many actions wait, or were let go and are not done yet."""
        return self._board.held

    def write_hold_release(self, _value: int) -> None:
        """Let those go that wait now. They are done when HELD no longer counts them."""
        self._board.release()

    def read_hold_expired(self) -> int:
        """Return how many went by themselves since the reset."""
        return self._board.expired
