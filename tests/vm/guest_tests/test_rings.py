# SPDX-License-Identifier: Apache-2.0
"""A guest whose device does not answer: its results are not a verdict on anything."""

from __future__ import annotations

from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction

VENDOR, DEVICE = 0x1234, 0x0BAD
DOORBELL, TIMER = 0, 8


def test_rings() -> None:
    """The write is posted, so the CPU waits in the read behind it."""
    with PciFunction.find(VENDOR, DEVICE) as function:
        bar = function.bar(0)
        assert bar[TIMER] == 0
        bar[DOORBELL] = 0x55
        assert bar[TIMER] == 0
