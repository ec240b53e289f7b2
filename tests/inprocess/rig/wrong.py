# SPDX-License-Identifier: Apache-2.0
"""Machines with a wrong device, and short waits for what it does not do."""

from __future__ import annotations

from contextlib import suppress

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.guest.drivers import exerciser, interrupts
from tests.inprocess.rig.machine import Machine


class WritesOneMore(Exerciser):
    """Writes a byte behind the range, which the protection unit refuses."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        if transfer.writes_memory:
            with suppress(DmaRefused):
                self.bus.write(transfer.address + transfer.length, b"\0")
        super().transfer(transfer, done)


def with_device(kind: type[Exerciser]) -> type[Machine]:
    return type(kind.__name__, (Machine,), {"device": kind})


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits for interrupts and DMA: here they are there at once, or never."""
    monkeypatch.setattr(exerciser, "DMA_TIMEOUT", exerciser.DMA_TIMEOUT / 100)
    wait = interrupts.Interrupt.wait
    monkeypatch.setattr(interrupts.Interrupt, "wait", lambda self, limit: wait(self, limit / 100))
