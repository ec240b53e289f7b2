# SPDX-License-Identifier: Apache-2.0
"""A buffer is unmapped twice."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("double_unmap"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("double_unmap", mended=mended):
        round_trip()
