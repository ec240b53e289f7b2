# SPDX-License-Identifier: Apache-2.0
"""Map and unmap name different directions."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("unmap_direction"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("unmap_direction", mended=mended):
        round_trip()
