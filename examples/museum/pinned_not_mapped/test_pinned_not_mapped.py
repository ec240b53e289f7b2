# SPDX-License-Identifier: Apache-2.0
"""Memory that is pinned is taken for mapped."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("pinned_not_mapped"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("pinned_not_mapped", mended=mended):
        round_trip()
