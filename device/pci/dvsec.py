# SPDX-License-Identifier: Apache-2.0
"""Designated Vendor-Specific Extended Capability (PCI Express Base 5.0, section 7.9.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_CONTROL = 0x08


class Dvsec(ExtendedCapability):
    """Header, id, then 16 read-only bits and one 32-bit control register at offset 8.

    ``vendor``: who designates; ``dvsec_id``: which one of that vendor's. ``on_write`` gets what
    software wrote to the control register, whose bits of ``commands`` then read 0.
    """

    id = 0x0023

    def __init__(
        self,
        vendor: int,
        dvsec_id: int,
        *,
        writable: int,
        commands: int = 0,
        on_write: Callable[[int], None],
    ) -> None:
        self._vendor, self._dvsec_id = vendor, dvsec_id
        self._writable, self._commands = writable, commands
        self._on_write = on_write

    def body(self) -> bytes:
        """Return DVSEC headers 1 and 2, and the control register in its upper half.

        Header 2 is the id in the low 16 bits of offset 8; the rest of that word is the vendor's.
        """
        length = 0xC
        return struct.pack("<IHH", self._vendor | length << 20, self._dvsec_id, 0)

    def write_mask(self) -> bytes:
        """Only the vendor's bits can be written; DVSEC's own are fixed."""
        return struct.pack("<II", 0, self._writable & 0xFFFF_0000)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Hand the control register on; its commands are not state."""
        value = config.dword(start + _CONTROL)
        config.set_dword(start + _CONTROL, value & ~self._commands)
        self._on_write(value)


def control(config: ConfigSpace, start: int) -> int:
    """Return the word at offset 8: the vendor's bits above the DVSEC id."""
    return config.dword(start + _CONTROL)
