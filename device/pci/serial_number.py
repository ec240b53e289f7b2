# SPDX-License-Identifier: Apache-2.0
"""Device Serial Number (PCI Express Base 5.0, section 7.9.3)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import ExtendedCapability

_BITS = 64


class DeviceSerialNumber(ExtendedCapability):
    """A read-only EUI-64: the vendor's 24-bit identifier in the upper bits, then its own number.

    All functions of a device that have it show the same number.
    """

    id = 0x0003

    def __init__(self, number: int) -> None:
        """Raise ValueError for a number of more than 64 bits."""
        if not 0 <= number < 1 << _BITS:
            raise ValueError(f"DeviceSerialNumber({number:#x}): give a number of {_BITS} bits")
        self._number = number

    def body(self) -> bytes:
        """Return the lower and the upper register."""
        return struct.pack("<Q", self._number)
