# SPDX-License-Identifier: Apache-2.0
"""A buffer is mapped for another struct device."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("wrong_device"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("wrong_device", mended=mended):
        round_trip()
