# SPDX-License-Identifier: Apache-2.0
"""MSI capability with 64-bit addresses, without per-vector masks (PCI Local Bus 3.0, 6.8.1)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import Capability

MAX_MESSAGES = 32
MESSAGE_CONTROL = 0x02  # from the capability's start
ENABLE = 1 << 0
_ONE_MULTIPLE = 1 << 4  # the unit of the field below
_MULTIPLE_MESSAGE_ENABLE = 7 << 4
_64_BIT = 1 << 7


class Msi(Capability):
    """Up to 32 messages, a power of two."""

    id = 0x05

    def __init__(self, messages: int) -> None:
        """Raise ValueError for a number that is not a power of two from 1 to 32."""
        if not 1 <= messages <= MAX_MESSAGES or messages & (messages - 1):
            raise ValueError(f"{messages} MSI messages: a power of two, 1 to {MAX_MESSAGES}")
        self._capable = messages.bit_length() - 1

    def body(self) -> bytes:
        """Return Message Control, address and data."""
        return struct.pack("<HQH", _64_BIT | self._capable << 1, 0, 0)

    def write_mask(self) -> bytes:
        """MSI Enable, Multiple Message Enable, address (its low bits are 0) and data."""
        control = ENABLE | _MULTIPLE_MESSAGE_ENABLE
        return struct.pack("<HQH", control, 0xFFFF_FFFF_FFFF_FFFC, 0xFFFF)


def allowed(control: int) -> int:
    """Return how many messages software allocated, by Message Control; 0 while it is disabled."""
    return 1 << (control & _MULTIPLE_MESSAGE_ENABLE) // _ONE_MULTIPLE if control & ENABLE else 0
