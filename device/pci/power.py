"""Power management capability (PCI Bus Power Management Interface 1.2, section 3.2)."""

from __future__ import annotations

import struct

from .config import Capability

_VERSION_3 = 3
_POWER_STATE = 0x3
_NO_SOFT_RESET = 1 << 3


class PowerManagement(Capability):
    """D0 and D3hot. PMCSR is writable, or QEMU believes in D3hot and unmaps the BARs."""

    id = 0x01

    def body(self) -> bytes:
        """Return PMC, PMCSR and the data byte at reset: D0, no PME, no reset on leaving D3hot."""
        return struct.pack("<HHBB", _VERSION_3, _NO_SOFT_RESET, 0, 0)

    def write_mask(self) -> bytes:
        """Only the power state can be written."""
        return struct.pack("<HHBB", 0, _POWER_STATE, 0, 0)
