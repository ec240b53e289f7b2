# SPDX-License-Identifier: Apache-2.0
"""Address Translation Services and Page Requests (PCI Express Base 5.0, 10.5.1 and 10.5.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_PAGE_ALIGNED_REQUEST = 1 << 5
_INVALIDATE_QUEUE_DEPTH = 1
_CONTROL = 0x06  # from the capability's start
_ENABLE = 1 << 15
_SMALLEST_TRANSLATION_UNIT = 0x1F
_PRI_CONTROL, _PRI_STATUS = 0x04, 0x06  # from the capability's start
_PRI_ENABLE = 1 << 0
_STOPPED = 1 << 8


class AddressTranslationServices(ExtendedCapability):
    """A function that asks for translations and keeps them.

    ``on_control`` is called with Enable when software wrote the control register.
    """

    id = 0x000F

    def __init__(self, on_control: Callable[[bool], None] = lambda _: None) -> None:
        self._on_control = on_control

    def body(self) -> bytes:
        """Return the capability and control registers."""
        return struct.pack("<HH", _INVALIDATE_QUEUE_DEPTH | _PAGE_ALIGNED_REQUEST, 0)

    def write_mask(self) -> bytes:
        """Enable and Smallest Translation Unit can be written."""
        return struct.pack("<HH", 0, _ENABLE | _SMALLEST_TRANSLATION_UNIT)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Say whether translations may be kept."""
        self._on_control(enabled(config, start))


def enabled(config: ConfigSpace, start: int) -> bool:
    """Return Enable of the ATS capability that begins at ``start``."""
    return bool(config.word(start + _CONTROL) & _ENABLE)


class PageRequests(ExtendedCapability):
    """Page Request Interface. The function never sends a page request: none is outstanding."""

    id = 0x0013

    def body(self) -> bytes:
        """Return control, status (Stopped), capacity and allocation."""
        return struct.pack("<HHII", 0, _STOPPED, 1, 0)

    def write_mask(self) -> bytes:
        """Enable and the allocation can be written; Reset reads 0."""
        return struct.pack("<HHII", _PRI_ENABLE, 0, 0, 0xFFFF_FFFF)

    def written(self, config: ConfigSpace, start: int) -> None:
        """Clear Stopped while enabled, and set it at once when not: no request is ever under way.

        Section 10.5.2.3.
        """
        running = config.word(start + _PRI_CONTROL) & _PRI_ENABLE
        config.set_word(start + _PRI_STATUS, 0 if running else _STOPPED)
