# SPDX-License-Identifier: Apache-2.0
"""The device keeps a ring that was freed."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("coherent_after_free"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("coherent_after_free", mended=mended):
        round_trip()
