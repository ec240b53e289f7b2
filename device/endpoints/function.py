# SPDX-License-Identifier: Apache-2.0
"""The members of a PCI function that its bus and its peers use.

`Endpoint` has them. Modules below it are typed on this protocol, and import no `Endpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.dma import Transaction
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.pci.aer import Correctable, Uncorrectable
from dma_rehearsal.device.pci.config import ConfigSpace
from dma_rehearsal.device.pci.pcie import DeviceStatus
from dma_rehearsal.device.trace import Trace


class Function(Protocol):
    """One PCI function, as its bus and its peers see it.

    ``requester_id``: bus, device and function number (PCI Express Base 5.0, 2.2.6.2), None where
    nobody has told it its slot.
    """

    name: str
    trace: Trace
    config: ConfigSpace
    requester_id: int | None

    @property
    def siblings(self) -> Mapping[int, Function]:
        """Return the other functions of its device, by their numbers."""

    @property
    def contents(self) -> Mapping[int, BarContent]:
        """Return what its BARs hold, by their numbers."""

    @property
    def coherent(self) -> bool:
        """Return whether caches follow its DMA."""

    @property
    def no_snoop_enabled(self) -> bool:
        """Return Device Control's Enable No Snoop."""

    def on_refused(self, transaction: Transaction) -> None:
        """Take note of a request to memory that was refused."""

    def traces_request(self, reason: DmaReason) -> bool:
        """Return whether a request that ended so is in the trace."""

    def detect_error(
        self, error: Correctable | Uncorrectable, *, fatal: bool = False
    ) -> DeviceStatus:
        """Log an error that the function detected; return its severity."""
