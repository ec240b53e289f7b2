# SPDX-License-Identifier: Apache-2.0
"""The interrupt is taken for the data."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("interrupt_before_data"):
        round_trip()


@pytest.mark.rehearse(timing="held")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("interrupt_before_data", mended=mended):
        round_trip()
