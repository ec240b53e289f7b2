# SPDX-License-Identifier: Apache-2.0
"""What the platform's protection unit opens, and keeps of what it denies."""

from __future__ import annotations

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout import DmaDirection, DmaReason, GrantDirection
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.platform.protection import Grant, Protection, ProtectionFault


class _EndOffByOne(Platform):
    def make_protection(self) -> Protection:
        class TooLong(Protection):
            def opens(self, grant: Grant) -> tuple[int, int, GrantDirection]:
                return grant.address, grant.end + 1, grant.direction

        return TooLong()


class _DirectionSwapped(Platform):
    def make_protection(self) -> Protection:
        class Swapped(Protection):
            def opens(self, grant: Grant) -> tuple[int, int, GrantDirection]:
                swapped = grant.direction >> 1 | grant.direction << 1 & GrantDirection.OUT
                return grant.address, grant.end, GrantDirection(swapped)

        return Swapped()


class _RecordLost(Platform):
    """Every eighth: a test of one denial may not notice."""

    def make_protection(self) -> Protection:
        class Forgetful(Protection):
            denied = 0

            def keep(self, fault: ProtectionFault) -> None:
                self.denied += 1
                if self.denied % 8:
                    super().keep(fault)

        return Forgetful()


class _MovesPrefix(Exerciser):
    """Moves what was granted of a DMA that is denied, as a check byte by byte would."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def ended(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if (
                isinstance(outcome, DmaRefused)
                and outcome.reason is DmaReason.PROTECTION_PAST_END
                and len(transfer.segments) == 1
            ):
                granted = transfer.part(0, outcome.address - transfer.address)
                Exerciser.transfer(self, granted, lambda *_: done(direction, outcome))
            else:
                done(direction, outcome)

        super().transfer(transfer, ended)


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "protection-end-off-by-one": DeviceFault(platform=_EndOffByOne),
    "protection-direction-swapped": DeviceFault(platform=_DirectionSwapped),
    "protection-moves-prefix": DeviceFault(exerciser=_MovesPrefix),
    "protection-record-lost": DeviceFault(platform=_RecordLost),
}
