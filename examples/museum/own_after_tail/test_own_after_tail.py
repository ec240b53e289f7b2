# SPDX-License-Identifier: Apache-2.0
"""The descriptor is given away after the doorbell."""

import pytest


@pytest.mark.rehearse(plain=True, timing="held")
def test_plain_kernel(driver, round_trip):
    with driver("own_after_tail"):
        round_trip()


@pytest.mark.rehearse(timing="eager")
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("own_after_tail", mended=mended):
        round_trip()
