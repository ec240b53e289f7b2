# SPDX-License-Identifier: Apache-2.0
"""A device with bugs, for ``ENDPOINT=``: some of its registers never answer."""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.multi_function import MultiFunction
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.pci.config import Identity


class Reg(IntEnum):
    """BAR0. A write to DOORBELL and a read of STATUS hang; so does what TIMER and POST start."""

    DOORBELL = 0
    STATUS = 4
    TIMER = 8
    POST = 12


class Hanging(Endpoint):
    """1234:0bad."""

    identity = Identity(vendor_id=0x1234, device_id=0x0BAD, class_code=0xFF0000)
    bars: ClassVar[Bars] = {0: RegisterBar(tuple(Register(each, Access.RW) for each in Reg))}

    def write_doorbell(self, value: int) -> None:
        """Compute for ever."""
        del value
        while True:
            pass

    def read_status(self) -> int:
        """Sleep for ever."""
        threading.Event().wait()
        return 0

    def write_timer(self, value: int) -> None:
        """Compute for ever, a little later."""
        self.timers.after(0, lambda: self.write_doorbell(value))

    def write_post(self, value: int) -> None:
        """Compute for ever in posted work."""
        del value
        self.post(self._compute)

    def _compute(self) -> None:
        self.write_doorbell(0)


class HangingCard(MultiFunction):
    """Two of them in one slot."""

    functions = (Hanging, Hanging)
