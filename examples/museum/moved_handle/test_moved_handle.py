# SPDX-License-Identifier: Apache-2.0
"""The handle moves between map and unmap."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("moved_handle"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("moved_handle", mended=mended):
        round_trip()
