# SPDX-License-Identifier: Apache-2.0
"""What a device asks of memory on its own, and who is told of requests."""

from __future__ import annotations

import contextlib
import threading

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.platform.platform import PlatformModels


class _RefusalsNotTraced(Exerciser):
    def traces_request(self, reason: DmaReason) -> bool:
        return reason is DmaReason.NONE


class _TransfersNotTraced(Exerciser):
    def traces_request(self, reason: DmaReason) -> bool:
        return reason is not DmaReason.NONE


def _refusals_uncounted() -> PlatformModels:
    """REFUSED_COUNT stands still whatever is refused, and nothing can be selected."""
    return PlatformModels(keeps_refusal=lambda _refused: False)


class _ReadsAhead(Exerciser):
    """Reads one byte behind each transfer, in vain where that is granted to nobody."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        last = transfer.segments[-1]
        with contextlib.suppress(DmaRefused):
            self.bus.read(last.address + last.length, 1)
        super().transfer(transfer, done)


class _ReadsAheadUnseen(_ReadsAhead, _RefusalsNotTraced):
    pass


class _Hangs(Exerciser):
    def write_dmactl(self, value: int) -> None:
        del value
        threading.Event().wait()


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "trace-refusals-lost": DeviceFault(exerciser=_RefusalsNotTraced),
    "trace-transfers-lost": DeviceFault(exerciser=_TransfersNotTraced),
    "platform-refusals-uncounted": DeviceFault(platform=_refusals_uncounted),
    "device-reads-ahead": DeviceFault(exerciser=_ReadsAhead),
    "device-reads-ahead-untraced": DeviceFault(exerciser=_ReadsAheadUnseen),
    "device-hangs": DeviceFault(exerciser=_Hangs),
}
