# SPDX-License-Identifier: Apache-2.0
"""The result is read before the device says that it is there."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("result_before_interrupt"):
        round_trip()


@pytest.mark.rehearse(timing="held")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("result_before_interrupt", mended=mended):
        round_trip()
