# SPDX-License-Identifier: Apache-2.0
"""What a device asks of memory on its own, and who is told of requests."""

from __future__ import annotations

import contextlib
import threading

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.refusals import Refusals, RefusedRequest
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import Fault
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.platform.platform import Platform


class _RefusalsNotTraced(Exerciser):
    def traces_request(self, reason: DmaReason) -> bool:
        return reason is DmaReason.NONE


class _TransfersNotTraced(Exerciser):
    def traces_request(self, reason: DmaReason) -> bool:
        return reason is not DmaReason.NONE


class _RefusalsUncounted(Platform):
    """Whatever is refused, REFUSED_COUNT stands still, and nothing can be selected."""

    def make_refusals(self) -> Refusals:
        class Silent(Refusals):
            def add(self, refused: RefusedRequest) -> None:
                pass

        return Silent()


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


FAULTS: dict[str, Fault] = {
    "trace-refusals-lost": Fault(
        "leaves refused requests out of its trace", exerciser=_RefusalsNotTraced
    ),
    "trace-transfers-lost": Fault(
        "leaves requests that moved bytes out of its trace", exerciser=_TransfersNotTraced
    ),
    "platform-refusals-uncounted": Fault(
        "does not count refused requests", platform=_RefusalsUncounted
    ),
    "device-reads-ahead": Fault("reads one byte behind each transfer", exerciser=_ReadsAhead),
    "device-reads-ahead-untraced": Fault(
        "reads one byte behind each transfer, and leaves it out of its trace",
        exerciser=_ReadsAheadUnseen,
    ),
    "device-hangs": Fault("never ends a write to DMACTL", exerciser=_Hangs),
}
