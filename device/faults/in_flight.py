# SPDX-License-Identifier: Apache-2.0
"""Faults of a DMA in flight: it does not end when it should."""

from __future__ import annotations

from dma_rehearsal.device.faults.behaviour import FaultyBehaviour
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout import DmaReason


class _OutlivesBusMaster(FaultyBehaviour):
    """A DMA in flight that does not end, and goes on when bus mastering is on again."""

    def end_dma(self, reason: DmaReason) -> None:
        if reason is not DmaReason.BUS_MASTER_OFF:
            super().end_dma(reason)


class _OutlivesReset(FaultyBehaviour):
    """The worst of a reset in the middle of a DMA: the old request goes on after it."""

    def end_dma(self, reason: DmaReason) -> None:
        transfer = self.device.hold._transfer
        super().end_dma(reason)
        if reason is DmaReason.RESET:
            self.device.hold._transfer = transfer


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "held-outlives-bus-master": DeviceFault(exerciser=_OutlivesBusMaster),
    "held-outlives-reset": DeviceFault(exerciser=_OutlivesReset),
}
