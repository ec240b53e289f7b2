# SPDX-License-Identifier: Apache-2.0
"""Faults of the protection unit: the memory that grants open, and the records of denied DMA."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaDirection, DmaReason, GrantDirection
from dma_rehearsal.device.platform.platform import PlatformModels
from dma_rehearsal.device.platform.protection import (
    Grant,
    Opened,
    ProtectionFault,
    ProtectionRules,
)


class _EndOffByOne(ProtectionRules):
    def opens(self, grant: Grant) -> Opened:
        return grant.address, grant.end + 1, grant.direction, grant.function


class _DirectionSwapped(ProtectionRules):
    def opens(self, grant: Grant) -> Opened:
        swapped = grant.direction >> 1 | grant.direction << 1 & GrantDirection.OUT
        return grant.address, grant.end, GrantDirection(swapped), grant.function


class _FunctionIgnored(ProtectionRules):
    def opens(self, grant: Grant) -> Opened:
        return grant.address, grant.end, grant.direction, None


class _RecordLost(ProtectionRules):
    """Every eighth: a test of one denial may not notice."""

    def __init__(self) -> None:
        self._denied = 0

    def keeps(self, fault: ProtectionFault) -> bool:
        del fault
        self._denied += 1
        return bool(self._denied % 8)


def _rules(kind: type[ProtectionRules]) -> DeviceFault:
    return DeviceFault(platform=lambda: PlatformModels(protection=kind()))


class _MovesPrefix(FaultyBehaviour):
    """Moves what was granted of a DMA that is denied, as a check byte by byte would."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def ended(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if (
                isinstance(outcome, DmaRefused)
                and outcome.reason is DmaReason.PROTECTION_PAST_END
                and len(transfer.segments) == 1
            ):
                granted = transfer.part(0, outcome.address - transfer.address)
                self.device.transfer(granted, lambda *_: done(direction, outcome))
            else:
                done(direction, outcome)

        super().transfer(transfer, ended)


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "protection-end-off-by-one": _rules(_EndOffByOne),
    "protection-direction-swapped": _rules(_DirectionSwapped),
    "protection-function-ignored": _rules(_FunctionIgnored),
    "protection-moves-prefix": DeviceFault(exerciser=_MovesPrefix),
    "protection-record-lost": _rules(_RecordLost),
}
