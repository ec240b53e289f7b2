# SPDX-License-Identifier: Apache-2.0
"""The driver loops over the entries that it gave, not those that it got."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("orig_nents"):
        round_trip()


@pytest.mark.rehearse(merge=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("orig_nents", mended=mended):
        round_trip()
