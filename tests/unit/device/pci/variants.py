# SPDX-License-Identifier: Apache-2.0
"""Functions with other capabilities than the exerciser's default, for ``ENDPOINT=``."""

from __future__ import annotations

from typing import ClassVar

from dma_rehearsal.device.endpoints.bars import Bars, MemoryBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.exerciser.capabilities import OptionalCapability
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.pci.acs import AccessControlServices
from dma_rehearsal.device.pci.atomics import AtomicOps
from dma_rehearsal.device.pci.config import Capability, Identity
from dma_rehearsal.device.pci.dvsec import Dvsec
from dma_rehearsal.device.pci.ltr import LatencyToleranceReporting
from dma_rehearsal.device.pci.pri import PageRequest
from dma_rehearsal.device.pci.serial_number import DeviceSerialNumber
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


class DeclaredCapabilities(Endpoint):
    """MSI with masks, and the capabilities that a class declares."""

    identity = Identity(vendor_id=0x13B5, device_id=0xED01, class_code=0xFF0000, interrupt_pin=1)
    bars: ClassVar[Bars] = {0: MemoryBar(4096)}
    messages = 8
    msi_masks = True
    capabilities: ClassVar[tuple[Capability, ...]] = (
        DeviceSerialNumber(0x0011_22FF_FE33_4455),
        LatencyToleranceReporting(),
        AccessControlServices(),
        PageRequest(64, pasid_required=True),
        AtomicOps(completes=(4, 8)),
    )
