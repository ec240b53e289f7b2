# SPDX-License-Identifier: Apache-2.0
"""Faults of a DMA: the bytes that it moves, its record, and its end."""

from __future__ import annotations

from dataclasses import replace

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.records import DmaRecord
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults.fault import DeviceFault, FaultyBehaviour
from dma_rehearsal.device.layout import DmaDirection, DmaReason


def _flip_middle(data: bytes) -> bytes:
    """Return ``data`` with its middle byte inverted."""
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


class _ReadFlip(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def flipped(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if direction is DmaDirection.READ_MEMORY and not isinstance(outcome, DmaRefused):
                outcome = rest = _flip_middle(outcome)
                for each in transfer.segments:
                    self.device.buffer[each.offset : each.offset + each.length] = rest[
                        : each.length
                    ]
                    rest = rest[each.length :]
            done(direction, outcome)

        super().transfer(transfer, flipped)


class _WriteFlip(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def flipped(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if direction is DmaDirection.WRITE_MEMORY and not isinstance(outcome, DmaRefused):
                first = transfer.segments[0]
                self.device.bus.write(first.address, _flip_middle(outcome[: first.length]))
            done(direction, outcome)

        super().transfer(transfer, flipped)


class _IgnoresDirection(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        super().transfer(replace(transfer, direction=DmaDirection.READ_MEMORY), done)


class _FalseSuccess(FaultyBehaviour):
    def transfer(self, transfer: Transfer, done: Moved) -> None:
        pieces = (
            self.device.buffer[each.offset : each.offset + each.length]
            for each in transfer.segments
        )
        done(transfer.direction, b"".join(pieces))


class _ReadsStale(FaultyBehaviour):
    """Reads what it wrote there itself last, whoever wrote there since."""

    _last: tuple[int, bytes] = (0, b"")

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            address, written = self._last
            if isinstance(outcome, DmaRefused):
                pass
            elif direction is DmaDirection.WRITE_MEMORY:
                self._last = transfer.address, outcome
            elif (transfer.address, transfer.length) == (address, len(written)):
                outcome = written
                self.device.buffer[transfer.offset : transfer.offset + len(written)] = written
            done(direction, outcome)

        super().transfer(transfer, moved)


class _DmaRecordLost(FaultyBehaviour):
    """Of every other DMA that reads memory: a test of one may not notice."""

    _lost = True

    def keep(self, record: DmaRecord) -> None:
        if record.direction is DmaDirection.READ_MEMORY:
            self._lost = not self._lost
            if self._lost:
                return
        super().keep(record)


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
    "device-read-flip": DeviceFault(exerciser=_ReadFlip),
    "device-write-flip": DeviceFault(exerciser=_WriteFlip),
    "device-ignores-direction": DeviceFault(exerciser=_IgnoresDirection),
    "device-false-success": DeviceFault(exerciser=_FalseSuccess),
    "device-reads-stale": DeviceFault(exerciser=_ReadsStale),
    "device-record-lost": DeviceFault(exerciser=_DmaRecordLost),
    "held-outlives-bus-master": DeviceFault(exerciser=_OutlivesBusMaster),
    "held-outlives-reset": DeviceFault(exerciser=_OutlivesReset),
}
