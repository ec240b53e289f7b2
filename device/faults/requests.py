# SPDX-License-Identifier: Apache-2.0
"""Faults of requests to memory: unasked, untraced, uncounted, or never ended."""

from __future__ import annotations

import contextlib
import threading

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaReason, ExerciserBar, Reg
from dma_rehearsal.device.platform.platform import PlatformModels


class _RefusalsNotTraced(FaultyBehaviour):
    def traces(self, reason: DmaReason) -> bool:
        return reason is DmaReason.NONE


class _TransfersNotTraced(FaultyBehaviour):
    def traces(self, reason: DmaReason) -> bool:
        return reason is not DmaReason.NONE


def _refusals_uncounted() -> PlatformModels:
    """REFUSED_COUNT stands still whatever is refused, and nothing can be selected."""
    return PlatformModels(keeps_refusal=lambda _refused: False)


class _ReadsAhead(FaultyBehaviour):
    """Reads one byte behind each transfer, in vain where that is granted to nobody."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        last = transfer.segments[-1]
        with contextlib.suppress(DmaRefused):
            self.device.bus.read(last.address + last.length, 1)
        super().transfer(transfer, done)


class _ReadsAheadUnseen(_ReadsAhead, _RefusalsNotTraced):
    pass


class _Hangs(FaultyBehaviour):
    def before_write(self, region: int, offset: int, data: bytes) -> None:
        super().before_write(region, offset, data)
        if (region, offset) == (ExerciserBar.CONTROL, Reg.DMACTL):
            threading.Event().wait()


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "trace-refusals-lost": DeviceFault(exerciser=_RefusalsNotTraced),
    "trace-transfers-lost": DeviceFault(exerciser=_TransfersNotTraced),
    "platform-refusals-uncounted": DeviceFault(platform=_refusals_uncounted),
    "device-reads-ahead": DeviceFault(exerciser=_ReadsAhead),
    "device-reads-ahead-untraced": DeviceFault(exerciser=_ReadsAheadUnseen),
    "device-hangs": DeviceFault(exerciser=_Hangs),
}
