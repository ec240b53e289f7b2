# SPDX-License-Identifier: Apache-2.0
"""The segment list is cut at 32 entries."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("segment_list_cut"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("segment_list_cut", mended=mended):
        round_trip()
