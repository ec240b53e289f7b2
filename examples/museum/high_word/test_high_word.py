# SPDX-License-Identifier: Apache-2.0
"""The high word of the address is hard-coded to 0."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("high_word"):
        round_trip()


@pytest.mark.rehearse(place="hostile")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("high_word", mended=mended):
        round_trip()
