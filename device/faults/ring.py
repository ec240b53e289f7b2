# SPDX-License-Identifier: Apache-2.0
"""Faults of the descriptor ring."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import replace

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.ring import parse
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaDirection, DmaReason, Ext

_SLOW_BUS_S = 0.001  # between two reads; another CPU may come in
# How often a descriptor of a small ring is read again, until it has changed. A doorbell of a large
# ring has thousands, and its client waits for it.
_READS, _SMALL = 20, 16


class _RingSkipsLast(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        if len(transfer.segments) > 1:
            transfer = replace(transfer, segments=transfer.segments[:-1])
        super().transfer(transfer, done)


class _RingDoubleFetch(FaultyBehaviour):
    """Checks a descriptor, then reads its length again from the guest's memory, and uses that.

    It moves no more than was checked, so that the guest lives to tell.
    """

    def run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        def moved(_direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                self.ended(transfer, outcome.reason, 0, 0)
                done(outcome.reason)
            else:
                segment = transfer.segments[0]._replace(length=self._fetched_again(transfer))
                used = replace(transfer, segments=(segment,))
                self.ended(used, DmaReason.NONE, used.length, zlib.crc32(outcome))
                done(DmaReason.NONE)

        try:
            self.check(transfer)
        except DmaRefused:
            checked = False  # the sound one finds that, too, and tells of it
        else:
            checked = len(transfer.segments) == 1
        if checked:
            self.transfer(transfer, moved)
        else:
            super().run_ring(transfer, done)

    def _fetched_again(self, transfer: Transfer) -> int:
        """Return the length that the descriptor at the completion index has by now."""
        (place,) = self.device.ring.ranges(self.device.extension[Ext.RING_COMPLETION], 1)
        small = self.device.extension[Ext.RING_SIZE] <= _SMALL
        length = transfer.length
        for _ in range(_READS if small else 1):
            if small:
                time.sleep(_SLOW_BUS_S)
            (again,) = parse(self.device.bus.read(*place))
            length = again.length
            if length != transfer.length:
                break
        return length


class _RingRefusalLost(FaultyBehaviour):
    def run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        super().run_ring(transfer, lambda _reason: done(DmaReason.NONE))


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "ring-skips-last": DeviceFault(exerciser=_RingSkipsLast),
    "ring-double-fetch": DeviceFault(exerciser=_RingDoubleFetch),
    "ring-refusal-lost": DeviceFault(exerciser=_RingRefusalLost),
}
