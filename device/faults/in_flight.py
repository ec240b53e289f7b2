# SPDX-License-Identifier: Apache-2.0
"""What ends a DMA that is in flight."""

from __future__ import annotations

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.fault import Fault


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


FAULTS: dict[str, Fault] = {
    "held-outlives-bus-master": Fault(
        "goes on with a DMA in flight when bus mastering is back", exerciser=_OutlivesBusMaster
    ),
    "held-outlives-reset": Fault(
        "goes on with a DMA in flight after a reset", exerciser=_OutlivesReset
    ),
}
