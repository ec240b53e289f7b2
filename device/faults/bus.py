# SPDX-License-Identifier: Apache-2.0
"""Faults of the bus: messages, translations, the device's own BARs and a peer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from dma_rehearsal.device.endpoints.dma import DmaRefused, OnlyByMessage
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaAttribute, DmaDirection, DmaReason
from dma_rehearsal.device.vfio_user.client_memory import View
from dma_rehearsal.device.vfio_user.errors import MemoryFault


class _MessageNotSent(FaultyBehaviour):
    """Invents the data that it should ask its client for."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        try:
            if not transfer.writes_memory:
                self.device.bus.read_list(
                    [(each.address, each.length) for each in transfer.segments]
                )
        except OnlyByMessage:
            done(transfer.direction, bytes(transfer.length))
            return
        except DmaRefused:
            pass  # so is the sound one
        super().transfer(transfer, done)


class _AtcUncovered(FaultyBehaviour):
    """Uses a translation beyond its range, too."""

    def check(self, transfer: Transfer) -> Transfer:
        if self.device.atc.entry is not None and DmaAttribute.USE_ATC in transfer.asked:
            transfer = replace(transfer, asked=transfer.asked & ~DmaAttribute.USE_ATC)
        return super().check(transfer)


class _TraceOfWords(FaultyBehaviour):
    """Traces an access of 8 bytes as two, as a bus that splits it would deliver it."""

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        for start in range(0, len(data), 4):
            super().accessed(region, offset + start, data[start : start + 4], write=write)


class _OwnBarReached(FaultyBehaviour):
    """Lets a DMA write the device's own registers, in the middle of itself."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        place = self.device.config.bar_at(transfer.address, transfer.length)
        if place is None or not transfer.writes_memory or place[1] < 0:
            super().transfer(transfer, done)
            return
        data = bytes(self.device.buffer[transfer.offset : transfer.offset + transfer.length])
        self.device.region_write(*place, data)
        done(transfer.direction, data)


class _PeerWriteLost(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        try:
            view = self.device.fabric.memory(
                self.device, transfer.address, transfer.length, write=True
            )
        except MemoryFault:
            super().transfer(transfer, done)
            return
        kept = bytes(view)

        def lost(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            view[:] = kept
            done(direction, outcome)

        super().transfer(transfer, lost)


class _StaleTranslation(FaultyBehaviour):
    """Keeps where an address led, and goes there when the client has unmapped it."""

    _seen: Mapping[tuple[int, int], Sequence[View]] = MappingProxyType({})

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        place = transfer.address, transfer.length

        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                if (views := self._seen.get(place)) is not None:
                    outcome = self._follow(views, transfer)
            elif self.device.bus.client is not None:
                write = transfer.writes_memory
                views = self.device.bus.client.memory(*place, write=write)
                self._seen = {**self._seen, place: views}
            done(direction, outcome)

        super().transfer(transfer, moved)

    def _follow(self, views: Sequence[View], transfer: Transfer) -> bytes:
        start = transfer.offset
        for view in views:
            window = slice(start, start + len(view))
            if transfer.writes_memory:
                view[:] = self.device.buffer[window]
            else:
                self.device.buffer[window] = bytes(view)
            start += len(view)
        return bytes(self.device.buffer[transfer.offset : start])

    def end_dma(self, reason: DmaReason) -> None:
        super().end_dma(reason)
        if reason is DmaReason.CLIENT_GONE:
            self._seen = {}


IMPLEMENTATIONS: dict[str, DeviceFault] = {
    "message-not-sent": DeviceFault(exerciser=_MessageNotSent),
    "atc-uncovered": DeviceFault(exerciser=_AtcUncovered),
    "trace-of-words": DeviceFault(exerciser=_TraceOfWords),
    "own-bar-reached": DeviceFault(exerciser=_OwnBarReached),
    "peer-write-lost": DeviceFault(exerciser=_PeerWriteLost),
    "iommu-stale-translation": DeviceFault(exerciser=_StaleTranslation),
}
