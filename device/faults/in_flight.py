# SPDX-License-Identifier: Apache-2.0
"""What ends a DMA that is in flight."""

from __future__ import annotations

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.fault import DeviceFault


class _OutlivesBusMaster(Exerciser):
    """A DMA in flight that is not ended, and goes on when bus mastering is back."""

    def on_command(self) -> None:
        pass


class _OutlivesReset(Exerciser):
    """The worst of a reset in the middle of a DMA: the old request goes on after it."""

    def on_reset(self) -> None:
        transfer = self.hold._transfer
        super().on_reset()
        self.hold._transfer = transfer


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "held-outlives-bus-master": DeviceFault(exerciser=_OutlivesBusMaster),
    "held-outlives-reset": DeviceFault(exerciser=_OutlivesReset),
}
