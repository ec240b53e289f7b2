# SPDX-License-Identifier: Apache-2.0
"""The named points of an exerciser at which a fault may act.

An exerciser asks its ``behaviour`` at each of them. Its own methods are the sound behaviour. A
fault gives it another object, which passes on to the exerciser whatever it does not change
(`dma_rehearsal.device.faults.fault`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dma_rehearsal.device.exerciser.records import DmaRecord
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.layout import DmaReason


class Behaviour(Protocol):
    """The behaviour of an exerciser. All calls come from the thread that serves it."""

    # DMA.

    def check(self, transfer: Transfer) -> Transfer:
        """Return what goes to the bus; DmaRefused for what never reaches it."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        """Move the data and call ``done``."""

    def run_ring(self, transfer: Transfer, done: Callable[[DmaReason], None]) -> None:
        """Do a transfer of the ring, or refuse it; call ``done`` with the reason of its end."""

    def ended(self, transfer: Transfer, reason: DmaReason, moved: int, crc32: int) -> None:
        """Record a DMA that has ended."""

    def keep(self, record: DmaRecord) -> None:
        """Keep a record for software to read."""

    def end_dma(self, reason: DmaReason) -> None:
        """End the DMA in flight, because of a reset, the command register or a detach."""

    def traces(self, reason: DmaReason) -> bool:
        """Return whether a request that ended for ``reason`` is in the trace."""

    def is_coherent(self) -> bool:
        """Return whether caches follow its DMA."""

    def allows_no_snoop(self) -> bool:
        """Return whether its requests may have No Snoop set."""

    # Interrupts.

    def msix(self, vector: int) -> bool:
        """Send an MSI-X message; return whether it went."""

    def send_intx(self) -> bool:
        """Tell the client that the INTx line rose; return whether it takes note."""

    def intx_status(self) -> bool:
        """Return Interrupt Status."""

    # Accesses by software. ``region``: 0-5 BARs, 7 configuration space.

    def before_write(self, region: int, offset: int, data: bytes) -> None:
        """Act before a write takes effect."""

    def accessed(self, region: int, offset: int, data: bytes, *, write: bool) -> None:
        """Trace an access that is done."""

    def shown_config(self, offset: int, data: bytes) -> bytes:
        """Return what software sees of ``data``, which configuration space has at ``offset``."""
