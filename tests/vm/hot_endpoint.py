# SPDX-License-Identifier: Apache-2.0
"""An endpoint with MSI alone, which QEMU can unplug: it copies slowly, or at once."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)

Reg = IntEnum("Reg", {"ADDRESS": 0, "COPY": 8, "STREAM": 12, "DONE": 16})
SIZE = 8  # bytes of a copy
PAUSE_S = 0.001


class Hot(Endpoint):
    """1234:4071. COPY has it read memory's 8 bytes, and write them behind, backwards.

    STREAM has it go on with that until its bus mastering ends, or it is reset or unplugged.
    """

    name = "hot"
    identity = Identity(0x1234, 0x4071, 0xFF0000, interrupt_pin=1)
    messages = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.ADDRESS, Access.RW, bits=64),
                Register(Reg.COPY, Access.WO),
                Register(Reg.STREAM, Access.WO),
                Register(Reg.DONE),
            )
        )
    }

    def write_copy(self, _value: int) -> None:
        """Copy once, and send the interrupt."""
        self.start(self._copy())

    def write_stream(self, _value: int) -> None:
        """Copy again and again."""
        self.start(self._stream())

    async def _stream(self) -> None:
        while self.config.bus_master:  # else a device has nothing to say
            await self._copy()
            await self.sleep(PAUSE_S)

    async def _copy(self) -> None:
        address = self.registers(0)[Reg.ADDRESS]
        data = await self.bus.reading(address, SIZE)
        await self.bus.writing(address + SIZE, data[::-1])
        self.registers(0)[Reg.DONE] += 1
        self.interrupts.line(0).send()
