# SPDX-License-Identifier: Apache-2.0
"""The list of extended capabilities, as software reads it."""

from __future__ import annotations

from dma_rehearsal.device.pci.config import ConfigSpace

AER, ATS, PRI, PASID, DVSEC = 0x0001, 0x000F, 0x0013, 0x001B, 0x0023


def extended(config: ConfigSpace) -> dict[int, int]:
    """Return each extended capability's place by its id."""
    found: dict[int, int] = {}
    place = 0x100
    while place and (header := config.dword(place)):
        assert header & 0xFFFF not in found
        found[header & 0xFFFF] = place
        place = header >> 20
    return found
