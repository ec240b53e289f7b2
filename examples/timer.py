# SPDX-License-Identifier: Apache-2.0
"""A whole device on one page: a timer that interrupts, does DMA, and can be migrated.

``python -m examples.timer SOCKET`` serves it; libvfio-user's sample client completes against it
(``make interop CLIENT=<path>``). At the time in BAR0 (seconds since 1970) INTx rises and 4 KiB go
to the client's memory and back; BAR1 is memory to map.
"""

import sys
import time
from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    Command,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
    SharedBar,
    StatePart,
    Trigger,
)
from dma_rehearsal.device.vfio_user.server import serve

PATTERN = b"".join(letter * 1024 for letter in (b"A", b"B", b"C", b"D"))
Reg = IntEnum("Reg", {"DEADLINE": 0})


class TimerDevice(Endpoint):
    """dead:beef."""

    identity = Identity(0xDEAD, 0xBEEF, 0xFF0000, 0xCAFE, 0xBABE, interrupt_pin=1)
    bars: ClassVar[Bars] = {
        0: RegisterBar([Register(Reg.DEADLINE, Access.RW, bits=64, trigger=Trigger.LAST)]),
        1: SharedBar(0x4000, areas=((0, 0x1000), (0x2000, 0x1000))),
    }
    state = (StatePart(bar=1, offset=0, length=0x3000), StatePart(bar=0, offset=0, length=8))
    command_at_reset = Command.MEMORY_SPACE | Command.BUS_MASTER  # the sample client sets neither
    outcome: object = None

    def write_deadline(self, _value: int) -> None:
        """Set the timer, and take back the last interrupt."""
        self.intx(False)
        self.timers.clear()
        self.on_running()

    def on_running(self) -> None:
        """Set the timer, also with the deadline that a migration brought."""
        if deadline := self.registers(0)[Reg.DEADLINE]:
            self.timers.after(deadline - time.time(), self._expired)

    def _expired(self) -> None:
        self.registers(0)[Reg.DEADLINE] = 0
        self.intx(True)
        # To the second range through its mapping, and to the first by messages.
        for (at, _), by_message in zip(self.bus.ranges()[1::-1], (False, True), strict=False):
            self.bus.write_async(at, PATTERN, self._finished, by_message=by_message)
            self.bus.read_async(at, len(PATTERN), self._finished, by_message=by_message)

    def _finished(self, outcome: object) -> None:
        self.outcome = outcome


if __name__ == "__main__":
    serve(sys.argv[1], TimerDevice())
