# SPDX-License-Identifier: Apache-2.0
"""Latency Tolerance Reporting (PCI Express Base 5.0, sections 6.18 and 7.8.2)."""

from __future__ import annotations

import struct

from dma_rehearsal.device.pci.config import ConfigSpace, ExpressBits, ExtendedCapability
from dma_rehearsal.device.pci.pcie import DeviceCapabilities2, DeviceControl2

_VALUE, _SCALE = 0x03FF, 0x1C00
_SCALE_STEP = 5  # bits: each scale is 32 times the one before it
_LATENCIES = 0x04  # from the capability's start: Max Snoop, then Max No-Snoop


class LatencyToleranceReporting(ExtendedCapability):
    """The limits that software sets. vfio-user carries no LTR message, so the function sends none.

    It brings LTR Mechanism Supported, and makes LTR Mechanism Enable writable; both limits are 0
    and the mechanism is off at reset.
    """

    id = 0x0018
    express = ExpressBits(DeviceCapabilities2.LTR, DeviceControl2.LTR_ENABLE)

    def body(self) -> bytes:
        """Return Max Snoop Latency and Max No-Snoop Latency."""
        return bytes(4)

    def write_mask(self) -> bytes:
        """Allow value and scale of both."""
        return struct.pack("<HH", _VALUE | _SCALE, _VALUE | _SCALE)


def limits(config: ConfigSpace, start: int) -> tuple[int, int]:
    """Return the longest snoop and no-snoop latency that software allows, in nanoseconds."""
    snoop, no_snoop = (config.word(start + _LATENCIES + offset) for offset in (0, 2))
    return _nanoseconds(snoop), _nanoseconds(no_snoop)


def _nanoseconds(latency: int) -> int:
    return (latency & _VALUE) << _SCALE_STEP * ((latency & _SCALE) >> 10)
