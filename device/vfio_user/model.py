"""The seam between the server and what it serves."""

from __future__ import annotations

from typing import Protocol


class Client(Protocol):
    """What an endpoint may ask of its client."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        """Return views, in order, that cover ``length`` bytes at bus address ``address``.

        Raises Unmapped or ReadOnly; never gives a part.
        """

    def trigger(self, index: int, subindex: int) -> bool:
        """Signal the eventfd of interrupt ``subindex`` of VFIO's IRQ ``index``, if one is set.

        Return whether the client learns of it, now or at its unmask. False is no error: INTx, a
        level, is offered again by ``end_of_interrupt``.
        """


class DeviceModel(Protocol):
    """What the server serves: one PCI function."""

    def region_size(self, index: int) -> int:
        """Return the bytes of region ``index`` (0-5 BARs, 7 configuration space); 0 = absent."""

    def irq_count(self, index: int) -> int:
        """Return how many interrupts VFIO's index has (0 INTx, 1 MSI, 2 MSI-X, 3 ERR, 4 REQ)."""

    def attach(self, client: Client) -> None:
        """Take note of a client that finished negotiation."""

    def detach(self) -> None:
        """Forget the client: every view of its memory is invalid."""

    def region_read(self, index: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; the range was checked against ``region_size``."""

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        """Store ``data``; the range was checked against ``region_size``."""

    def end_of_interrupt(self) -> None:
        """INTx was serviced, or goes another way from now on.

        A line that is still asserted is a new interrupt.
        """

    def device_reset(self) -> None:
        """Reset the function."""
