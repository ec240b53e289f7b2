# SPDX-License-Identifier: Apache-2.0
"""Page Request Interface (PCI Express Base 5.0, section 10.5.2)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_CONTROL, _STATUS = 0x04, 0x06  # from the capability's start
_ENABLE = 1 << 0
_STOPPED = 1 << 8
_RESPONSE_PASID_REQUIRED = 1 << 15
_FAILURES = 1 << 0 | 1 << 1  # Response Failure, Unexpected Page Request Group Index
_CAPACITY_MAX = 0xFFFF_FFFF


class PageRequest(ExtendedCapability):
    """A function that may ask for pages. ``capacity``: requests that may be outstanding.

    vfio-user carries no page request, so the function sends none and none is outstanding.
    ``pasid_required``: responses need a PASID where the request had one.
    """

    id = 0x0013

    def __init__(self, capacity: int = 1, *, pasid_required: bool = False) -> None:
        """Raise ValueError for a capacity that 32 bits do not hold, or 0."""
        if not 1 <= capacity <= _CAPACITY_MAX:
            raise ValueError(f"PageRequest: capacity {capacity}; give 1 to {_CAPACITY_MAX:#x}")
        self._capacity = capacity
        self._status = _STOPPED | _RESPONSE_PASID_REQUIRED * pasid_required

    def body(self) -> bytes:
        """Return control, status (Stopped), capacity and allocation."""
        return struct.pack("<HHII", 0, self._status, self._capacity, 0)

    def write_mask(self) -> bytes:
        """Allow Enable and the allocation; Reset reads 0."""
        return struct.pack("<HHII", _ENABLE, 0, 0, 0xFFFF_FFFF)

    def clear_mask(self) -> bytes:
        """Have the two failures be RW1C."""
        return struct.pack("<HHII", 0, _FAILURES, 0, 0)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Clear Stopped while enabled, and set it at once when not: no request is ever under way.

        Section 10.5.2.3.
        """
        status = config.word(start + _STATUS) & ~_STOPPED
        running = config.word(start + _CONTROL) & _ENABLE
        config.set_word(start + _STATUS, status if running else status | _STOPPED)
