# SPDX-License-Identifier: Apache-2.0
"""Words of configuration space, and where the exerciser has its capabilities."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import ConfigSpace

PCIE, POWER, MSIX = 0x40, 0x7C, 0x84


def word(config: ConfigSpace, offset: int) -> int:
    value: int = struct.unpack("<H", config.read(offset, 2))[0]
    return value
