# SPDX-License-Identifier: Apache-2.0
"""Process Address Space ID (PCI Express Base 5.0, section 7.8.8)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_EXECUTE_SUPPORTED = 1 << 1
_PRIVILEGED_SUPPORTED = 1 << 2
_WIDTH = 20 << 8  # bits of a PASID
_CONTROL = 0x06  # from the capability's start
_ENABLE = 1 << 0
_EXECUTE_ENABLE = 1 << 1
_PRIVILEGED_ENABLE = 1 << 2


class ProcessAddressSpaceId(ExtendedCapability):
    """PASIDs of 20 bits, with execute and privileged-mode requests."""

    id = 0x001B

    def body(self) -> bytes:
        """Return the capability and control registers."""
        return struct.pack("<HH", _EXECUTE_SUPPORTED | _PRIVILEGED_SUPPORTED | _WIDTH, 0)

    def write_mask(self) -> bytes:
        """The three enables can be written."""
        return struct.pack("<HH", 0, _ENABLE | _EXECUTE_ENABLE | _PRIVILEGED_ENABLE)


def enabled(config: ConfigSpace, start: int) -> bool:
    """Return PASID Enable of the capability that begins at ``start``."""
    return bool(config.word(start + _CONTROL) & _ENABLE)
