# SPDX-License-Identifier: Apache-2.0
"""A device with all that comes from elsewhere: a thread, a watched socket and a coroutine."""

from __future__ import annotations

import queue
import socket
import threading
from concurrent.futures import CancelledError
from enum import IntEnum
from functools import partial
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.trace import Trace

Reg = IntEnum("Reg", {"ADDRESS": 0, "DOORBELL": 8, "DONE": 12})
SIZE = 8  # bytes of a message


class Mirror(Endpoint):
    """1234:7ead. A doorbell has the thread read memory's 8 bytes, and send them to itself.

    The serving thread gets them from the socket, and a coroutine writes them behind the first.
    """

    name = "threaded"
    identity = Identity(vendor_id=0x1234, device_id=0x7EAD, class_code=0xFF0000)
    vectors = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.ADDRESS, Access.RW, bits=64),
                Register(Reg.DOORBELL, Access.WO),
                Register(Reg.DONE),
            )
        )
    }

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self._jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ours, self._theirs = socket.socketpair()
        self.watch(self._ours, self._received)

    def on_attach(self) -> None:
        """Start the thread, which ends with the client."""
        self.thread(self._work)

    def write_doorbell(self, _value: int) -> None:
        """Hand the job over."""
        self._jobs.put(self.registers(0)[Reg.ADDRESS])

    def _work(self, ending: threading.Event) -> None:
        while not ending.is_set():
            try:
                read = partial(self.bus.read, self._jobs.get(timeout=0.05), SIZE)
                self._theirs.send(self.post_future(read).result())
            except (queue.Empty, CancelledError, DmaRefused):
                continue

    def _received(self) -> None:
        self.start(self._write(self._ours.recv(SIZE)))

    async def _write(self, data: bytes) -> None:
        await self.bus.writing(self.registers(0)[Reg.ADDRESS] + SIZE, data[::-1])
        await self.sleep(0.01)
        self.registers(0)[Reg.DONE] += 1
        self.msix(0)
