# SPDX-License-Identifier: Apache-2.0
"""The faults of the fixture that rehearses kernel drivers."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Component, Fault

_OPTIONS = {
    "endpoint": "examples.own_driver.mirror_device:Mirror",
    "module": "examples/own_driver/driver:tests/vm/driver_fixture/drivers",
}

REHEARSAL = (
    Fault(
        "rehearsal-not-hooked",
        Component.REHEARSAL,
        "another function than the driver's has its DMA API watched",
        message="PROTECTION_OUTSIDE",
        options=_OPTIONS,
    ),
    Fault(
        "rehearsal-expects-all",
        Component.REHEARSAL,
        "an announcement takes every report, whatever its kinds",
        message="[XPASS(strict)]",
        options=_OPTIONS,
    ),
    Fault(
        "rehearsal-never-released",
        Component.REHEARSAL,
        "nothing lets held DMA go when the guest is idle",
        message="held DMA was not let go although the guest was idle",
        options=_OPTIONS,
    ),
    Fault(
        "rehearsal-never-fails",
        Component.REHEARSAL,
        "no call of the driver is made to fail",
        message="calls failed though each was to fail",
        options=_OPTIONS,
    ),
    Fault(
        "rehearsal-warning-unseen",
        Component.REHEARSAL,
        "an oops or a warning of the kernel passes in silence",
        message="DID NOT RAISE",
        options=_OPTIONS,
    ),
)
