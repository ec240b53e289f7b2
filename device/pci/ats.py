"""Address Translation Services and Page Requests (PCI Express Base 5.0, 10.5.1 and 10.5.2)."""

from __future__ import annotations

import struct

from .config import ConfigSpace, ExtendedCapability

_PAGE_ALIGNED_REQUEST = 1 << 5
_INVALIDATE_QUEUE_DEPTH = 1
_CONTROL = 0x06  # from the capability's start
_ENABLE = 1 << 15
_SMALLEST_TRANSLATION_UNIT = 0x1F


class AddressTranslationServices(ExtendedCapability):
    """A function that asks for translations and keeps them."""

    id = 0x000F

    def body(self) -> bytes:
        """Return the capability and control registers."""
        return struct.pack("<HH", _INVALIDATE_QUEUE_DEPTH | _PAGE_ALIGNED_REQUEST, 0)

    def write_mask(self) -> bytes:
        """Enable and Smallest Translation Unit can be written."""
        return struct.pack("<HH", 0, _ENABLE | _SMALLEST_TRANSLATION_UNIT)


def enabled(config: ConfigSpace, start: int) -> bool:
    """Return Enable of the ATS capability that begins at ``start``."""
    return bool(config.word(start + _CONTROL) & _ENABLE)


class PageRequests(ExtendedCapability):
    """Page Request Interface. The function never sends a page request: none is outstanding."""

    id = 0x0013

    def body(self) -> bytes:
        """Return control, status (Stopped), capacity and allocation."""
        return struct.pack("<HHII", 0, 1 << 8, 1, 0)

    def write_mask(self) -> bytes:
        """Enable and the allocation can be written; Reset reads 0."""
        return struct.pack("<HHII", 1, 0, 0, 0xFFFF_FFFF)
