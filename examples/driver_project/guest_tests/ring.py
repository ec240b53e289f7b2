# SPDX-License-Identifier: Apache-2.0
"""The layout of this driver's descriptor ring; the guest tests import it."""

from __future__ import annotations

import struct

DESCRIPTOR = struct.Struct("<QII")  # bus address, bytes, flags
ENTRIES = 64


def entry(address: int, length: int, flags: int) -> bytes:
    """Return one descriptor's 16 bytes."""
    return DESCRIPTOR.pack(address, length, flags)
