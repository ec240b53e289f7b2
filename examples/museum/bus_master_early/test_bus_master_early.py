# SPDX-License-Identifier: Apache-2.0
"""Bus mastering is on before the device is reset."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("bus_master_early"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("bus_master_early", mended=mended):
        round_trip()
