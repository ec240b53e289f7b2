"""A whole device on one page: a timer that interrupts, does DMA, and can be migrated.

    python -m device.examples.timer SOCKET

It is made so that the sample client of libvfio-user, a C program written by others, runs against it
from end to end (``make interop CLIENT=.../client``): BAR0 takes a time in seconds since 1970; when
it has come, INTx rises, 4 KiB go to the second range of the client's memory and come back, and then
to the first range, by messages. BAR1 is memory, two pages of which the client may map. What a
migration carries is that memory and the time.
"""

from __future__ import annotations

import sys
import time
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

from device.endpoints.base import Bars, Endpoint, RegisterBar, SharedBar
from device.endpoints.bus import DmaRefused
from device.endpoints.registers import Access, Register
from device.pci.config import Identity
from device.trace import Trace
from device.vfio_user.migration import Migration
from device.vfio_user.server import VfioUserServer
from device.vfio_user.timers import Timer

PATTERN = b"".join(letter * 1024 for letter in (b"A", b"B", b"C", b"D"))
MEMORY = 0x3000  # what of BAR1 is used
BUS_MASTER = b"\x04\x00"


class Reg(IntEnum):
    """BAR0: when to interrupt, in seconds since 1970; writing the upper half sets the timer."""

    DEADLINE_LO = 0
    DEADLINE_HI = 4


class TimerDevice(Endpoint):
    """dead:beef. ``outcome`` is what the last deadline's DMA came to."""

    name = "timer"
    identity = Identity(
        vendor_id=0xDEAD,
        device_id=0xBEEF,
        class_code=0xFF0000,
        subsystem_vendor_id=0xCAFE,
        subsystem_id=0xBABE,
        interrupt_pin=1,
    )
    bars: ClassVar[Bars] = {
        0: RegisterBar([Register(each, Access.RW) for each in Reg]),
        1: SharedBar(0x4000, ((0, 0x1000), (0x2000, 0x1000))),
    }

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace or Trace())
        self.control = self.registers(0)
        self.window = self.shared(1)
        self.migration = Migration(
            MEMORY + 8, self._save, self._load, stopped=self._disarm, running=self._arm
        )
        self.outcome: bytes | DmaRefused | None = None
        self._timer: Timer | None = None
        self.after_reset()

    def on_reset(self) -> None:
        """Stop."""
        self._disarm()

    def after_reset(self) -> None:
        """Turn bus mastering on: the sample client is no guest, and nobody else does."""
        self.region_write(7, 4, BUS_MASTER)

    def write_deadline_hi(self, _value: int) -> None:
        """Set the timer, and take back the interrupt of the last one."""
        self.intx(False)
        self._arm()

    def _arm(self) -> None:
        self._disarm()
        deadline = self.control.pair(Reg.DEADLINE_LO, Reg.DEADLINE_HI)
        if deadline:
            self._timer = self.timers.after(deadline - time.time(), self._expired)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expired(self) -> None:
        self.control.set_pair(Reg.DEADLINE_LO, Reg.DEADLINE_HI, 0)
        self.intx(True)
        ranges = [address for address, _size in self.bus.client.ranges()] if self.bus.client else []
        if len(ranges) < 2:
            return
        self.bus.write(ranges[1], PATTERN)
        self.bus.read(ranges[1], len(PATTERN))
        # Nothing waits here: register accesses are served while the client answers.
        self.bus.write_async(ranges[0], PATTERN, self._finished, by_message=True)
        self.bus.read_async(ranges[0], len(PATTERN), self._finished, by_message=True)

    def _finished(self, outcome: bytes | DmaRefused) -> None:
        self.outcome = outcome

    def _save(self) -> bytes:
        deadline = self.control.pair(Reg.DEADLINE_LO, Reg.DEADLINE_HI)
        return self.window.read(0, MEMORY) + deadline.to_bytes(8, "little")

    def _load(self, state: bytes) -> None:
        self.window.write(0, state[:MEMORY])
        deadline = int.from_bytes(state[MEMORY:], "little")
        self.control.set_pair(Reg.DEADLINE_LO, Reg.DEADLINE_HI, deadline)


def main(path: Path) -> None:
    """Serve on ``path`` until interrupted; one client, and when it is gone the next."""
    server = VfioUserServer(path, TimerDevice())
    server.listen()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
