# SPDX-License-Identifier: Apache-2.0
"""The mask has more bits than the device drives."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("mask_too_wide"):
        round_trip()


@pytest.mark.rehearse(device_bits=36)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("mask_too_wide", mended=mended):
        round_trip()
