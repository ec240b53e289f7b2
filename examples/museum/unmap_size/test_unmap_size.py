# SPDX-License-Identifier: Apache-2.0
"""A buffer is unmapped with the length of the packet."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("unmap_size"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("unmap_size", mended=mended):
        round_trip()
