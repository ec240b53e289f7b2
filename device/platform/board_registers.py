# SPDX-License-Identifier: Apache-2.0
"""The board's register that says whether any function's DMA is snooped."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import Plat


class BoardRegisters:
    """BOARD_SNOOP. ``event`` writes to the trace: a name and facts.

    ``snoops`` says what a value of the register means: a fault has a board that ignores it.
    """

    def __init__(
        self,
        control: RegisterFile,
        interconnect: Interconnect,
        *,
        snoops: Callable[[bool], bool],
        event: Callable[..., None],
    ) -> None:
        self._interconnect, self._snoops, self._event = interconnect, snoops, event
        control.add((Register(Plat.BOARD_SNOOP, Access.RW, reset=1, mask=1),), self)

    def reset(self) -> None:
        """Snoop again, as the register says after a reset."""
        with self._interconnect.lock:
            self._interconnect.snoops = True

    def write_board_snoop(self, value: int) -> None:
        """Snoop requests that ask for it, or none at all. It holds for the next request."""
        asked = bool(value & 1)
        with self._interconnect.lock:
            self._interconnect.snoops = self._snoops(asked)
            self._event("board", snoop=asked)
