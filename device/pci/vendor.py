# SPDX-License-Identifier: Apache-2.0
"""Vendor-specific capability (PCI Local Bus 3.0, appendix H): what its vendor likes."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import Capability

_MAX = 0xFF - 3


class VendorSpecific(Capability):
    """Read-only bytes behind the length byte."""

    id = 0x09

    def __init__(self, content: bytes) -> None:
        """Raise ValueError for more than 252 bytes."""
        if len(content) > _MAX:
            raise ValueError(f"{len(content)} vendor-specific bytes: at most {_MAX}")
        self._content = content

    def body(self) -> bytes:
        """Return the length of the whole capability, then the content."""
        return struct.pack("<B", 3 + len(self._content)) + self._content
