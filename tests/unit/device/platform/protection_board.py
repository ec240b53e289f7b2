# SPDX-License-Identifier: Apache-2.0
"""An exerciser behind a protection unit, both driven by their registers."""

from __future__ import annotations

from typing import Any

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    Plat,
    ProtectionCommand,
    ProtectionStatus,
)
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import FakeClient, answer, read32, write32


class Board:
    """An exerciser whose requests cross a platform's interconnect, and commands to the platform."""

    def __init__(self, client: FakeClient, trace: Trace | None = None) -> None:
        self.platform = Platform(trace or Trace())
        self.platform.attach(client)
        answer(self.platform)
        self.exerciser = Exerciser(trace or Trace())
        self.exerciser.bus.interconnect = self.platform.interconnect
        self.exerciser.attach(client)
        self.exerciser.region_write(7, 4, b"\x06\x00")

    def set64(self, register: Plat, value: int) -> None:
        write32(self.platform, 0, register, value)
        write32(self.platform, 0, register + 4, value >> 32)

    def get64(self, register: Plat) -> int:
        return read32(self.platform, 0, register) | read32(self.platform, 0, register + 4) << 32

    def command(self, command: int, **arguments: int) -> ProtectionStatus:
        for name in ("address", "length", "owner"):
            if name in arguments:
                self.set64(Plat[f"GRANT_{name.upper()}_LO"], arguments[name])
        for name in ("direction", "id", "function"):
            if name in arguments:
                write32(self.platform, 0, Plat[f"GRANT_{name.upper()}"], arguments[name])
        write32(self.platform, 0, Plat.PROTECTION_CTL, command)
        return ProtectionStatus(read32(self.platform, 0, Plat.PROTECTION_STATUS))

    def enable(self) -> None:
        assert self.command(ProtectionCommand.ENABLE) is ProtectionStatus.OK

    def grant(self, address: int, length: int, direction: int, owner: int = 0) -> int:
        status = self.command(
            ProtectionCommand.GRANT,
            address=address,
            length=length,
            direction=direction,
            owner=owner,
        )
        assert status is ProtectionStatus.OK
        made = read32(self.platform, 0, Plat.GRANT_ID)
        assert self.get64(Plat.GRANT_STATUS) == made << 32 | status
        return made

    def grant_to(self, function: int, address: int, length: int) -> ProtectionStatus:
        """Grant both directions to the function that a word names; return the status."""
        return self.command(
            ProtectionCommand.GRANT_TO_FUNCTION,
            address=address,
            length=length,
            direction=3,
            owner=0,
            function=function,
        )

    @property
    def faults(self) -> int:
        return read32(self.platform, 0, Plat.FAULT_COUNT)

    def fault(self, sequence: int) -> dict[str, Any]:
        write32(self.platform, 0, Plat.FAULT_SELECT, sequence)
        names = ("ADDRESS", "LENGTH", "BYTE", "GRANT_ADDRESS", "GRANT_LENGTH", "GRANT_OWNER")
        found = {name.lower(): self.get64(Plat[f"FAULT_{name}_LO"]) for name in names}
        singles = (
            *("VALID", "SEQUENCE", "REASON", "DIRECTION", "FUNCTION"),
            *("GRANT_ID", "GRANT_DIRECTION", "GRANT_FUNCTION"),
        )
        return found | {
            name.lower(): read32(self.platform, 0, Plat[f"FAULT_{name}"]) for name in singles
        }
