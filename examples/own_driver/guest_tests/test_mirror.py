# SPDX-License-Identifier: Apache-2.0
"""The driver of the mirror, as docs/your-driver.md builds its tests."""

from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason


def mirrored(data):
    """Return what the device makes of ``data``."""
    with Path("/dev/mirror").open("r+b", buffering=0) as file:
        file.write(data)
        return file.read(len(data))


def test_mirror(driver, data):
    sent = data.take(1000)
    with driver("mirror"):
        assert mirrored(sent) == sent[::-1]


@pytest.mark.rehearse(timing="held")
def test_a_hasty_driver_is_found(driver, data):
    with (
        driver.expects(DmaReason.PROTECTION_OUTSIDE, DmaReason.UNMAPPED),  # by an IOMMU
        driver("mirror", hasty=True),
        pytest.raises(OSError, match="Input/output error"),
    ):
        mirrored(data.take(1000))
