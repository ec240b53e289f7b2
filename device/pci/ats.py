# SPDX-License-Identifier: Apache-2.0
"""Address Translation Services (PCI Express Base 5.0, section 10.5.1)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dma_rehearsal.device.pci.config import ConfigSpace, ExtendedCapability

_PAGE_ALIGNED_REQUEST = 1 << 5
_INVALIDATE_QUEUE_DEPTH = 1
_CONTROL = 0x06  # from the capability's start
_ENABLE = 1 << 15
_SMALLEST_TRANSLATION_UNIT = 0x1F


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
