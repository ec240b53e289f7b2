# SPDX-License-Identifier: Apache-2.0
"""The carry is lost between two address registers."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("lost_carry"):
        round_trip()


@pytest.mark.rehearse(place="hostile")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("lost_carry", mended=mended):
        round_trip()
