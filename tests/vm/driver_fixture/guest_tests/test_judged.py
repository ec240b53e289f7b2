# SPDX-License-Identifier: Apache-2.0
"""A right driver and a hasty one under the fixture ``driver``, as each fault of it must show."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.testkit import DriverRehearsal, Patterns


def mirrored(data: bytes) -> bytes:
    """Return what the device makes of ``data``."""
    with Path("/dev/mirror").open("r+b", buffering=0) as file:
        file.write(data)
        return file.read(len(data))


def is_right(driver: DriverRehearsal, data: Patterns) -> bool:
    """Whether a right driver mirrors."""
    sent = data.take(1000)
    with driver("mirror"):
        return mirrored(sent) == sent[::-1]


@pytest.mark.rehearse(timing=("eager", "held"), coherent=(True, False))
def test_right(driver: DriverRehearsal, data: Patterns) -> None:
    assert is_right(driver, data)


@pytest.mark.rehearse(every_failure=True)
def test_every_failure(driver: DriverRehearsal, data: Patterns) -> None:
    assert is_right(driver, data)


def hasty(driver: DriverRehearsal, data: Patterns, *kinds: DmaReason | DriverReportKind) -> None:
    """Have a hasty driver announced as one that makes such mistakes."""
    with (
        driver.expects(*kinds),
        driver("mirror", hasty=True),
        pytest.raises(OSError, match="Input/output error"),
    ):
        mirrored(data.take(1000))


@pytest.mark.rehearse(timing="held")
def test_right_announcement(driver: DriverRehearsal, data: Patterns) -> None:
    hasty(driver, data, DmaReason.PROTECTION_OUTSIDE)


@pytest.mark.xfail(strict=True, reason="the announcement is of another mistake")
@pytest.mark.rehearse(timing="held")
def test_wrong_announcement(driver: DriverRehearsal, data: Patterns) -> None:
    hasty(driver, data, DmaReason.PROTECTION_DIRECTION, DriverReportKind.NEVER_UNMAPPED)


@pytest.mark.xfail(strict=True, reason="a right driver makes no mistake")
def test_announcement_of_nothing(driver: DriverRehearsal, data: Patterns) -> None:
    with driver.expects(DriverReportKind.NEVER_UNMAPPED):
        assert is_right(driver, data)
