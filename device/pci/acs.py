# SPDX-License-Identifier: Apache-2.0
"""Access Control Services of an endpoint (PCI Express Base 5.0, sections 6.12 and 7.7.8)."""

from __future__ import annotations

import struct
from enum import IntFlag

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_CONTROL = 0x06  # from the capability's start


class Acs(IntFlag):
    """ACS Capability and ACS Control: what a function of a multi-function endpoint may have.

    Source Validation, Translation Blocking and Upstream Forwarding are of ports.
    """

    REQUEST_REDIRECT = 1 << 2
    COMPLETION_REDIRECT = 1 << 3
    DIRECT_TRANSLATED = 1 << 6


class AccessControlServices(ExtendedCapability):
    """The services that software may turn on; all are off at reset.

    A guest's kernel decides by them which functions share an IOMMU group. Behind an IOMMU, a
    request to a BAR of another function of the device goes there directly while P2P Request
    Redirect is off, and by the IOMMU while it is on. The other services are modelled as registers.
    """

    id = 0x000D

    def __init__(self, services: Acs = Acs.REQUEST_REDIRECT | Acs.COMPLETION_REDIRECT) -> None:
        self._services = services

    def body(self) -> bytes:
        """Return the capability register, and the control register."""
        return struct.pack("<HH", self._services, 0)

    def write_mask(self) -> bytes:
        """Allow the controls of the services that are there."""
        return struct.pack("<HH", 0, self._services)


def enabled(config: ConfigSpace, start: int) -> Acs:
    """Return which services software has turned on."""
    return Acs(config.word(start + _CONTROL))
