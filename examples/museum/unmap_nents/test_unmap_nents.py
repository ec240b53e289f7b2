# SPDX-License-Identifier: Apache-2.0
"""A list is unmapped with the number that the map returned."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("unmap_nents"):
        round_trip()


@pytest.mark.rehearse(merge=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("unmap_nents", mended=mended):
        round_trip()
