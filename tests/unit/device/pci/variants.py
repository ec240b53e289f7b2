# SPDX-License-Identifier: Apache-2.0
"""Functions with other capabilities than the exerciser's default, for ``ENDPOINT=``."""

from __future__ import annotations

from typing import ClassVar

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.pci.config import Identity
from dma_rehearsal.device.pci.dvsec import Dvsec
from dma_rehearsal.device.pci.vendor import VendorSpecific
from dma_rehearsal.device.trace import Trace


class EveryCapability(Exerciser):
    """The exerciser with AER, ATS, PRI, PASID and the error-injection DVSEC."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace, capabilities=[*OptionalCapability])


class MessagesOnly(Endpoint):
    """MSI without MSI-X, no INTx, a vendor-specific capability and a DVSEC of its own."""

    identity = Identity(vendor_id=0x13B5, device_id=0xED01, class_code=0xFF0000, revision_id=7)
    bars: ClassVar[Bars] = {0: MemoryBar(4096)}
    messages = 4

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.add_capability(VendorSpecific(b"rehearsal"))
        self.add_capability(
            Dvsec(0x13B5, 0x0042, writable=0xFFFF_0000, on_write=lambda _value: None)
        )
