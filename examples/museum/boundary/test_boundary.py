# SPDX-License-Identifier: Apache-2.0
"""A transfer crosses a boundary of the device."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("boundary"):
        round_trip()


@pytest.mark.rehearse(place="hostile")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("boundary", mended=mended):
        round_trip()
