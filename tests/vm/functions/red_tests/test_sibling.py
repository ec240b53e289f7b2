# SPDX-License-Identifier: Apache-2.0
"""A driver that maps with the device of the sibling, and a test that does not announce it."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.guest.testkit import DriverRehearsal


def test_both_functions(driver: DriverRehearsal) -> None:
    front = driver.functions[0]
    back = f"{front.rpartition('.')[0]}.3"
    assert Path("/sys/bus/pci/devices", back).exists()
    with driver("two_functions", functions=[front, back], sibling=True):
        pass
