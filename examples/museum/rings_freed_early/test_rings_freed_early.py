# SPDX-License-Identifier: Apache-2.0
"""The rings of a virtqueue are freed before the device lets go of them."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("rings_freed_early"):
        round_trip()


@pytest.mark.rehearse(timing="held")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("rings_freed_early", mended=mended):
        round_trip()
