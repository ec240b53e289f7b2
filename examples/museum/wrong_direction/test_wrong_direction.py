# SPDX-License-Identifier: Apache-2.0
"""Receive buffers are mapped for the wrong direction."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("wrong_direction"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("wrong_direction", mended=mended):
        round_trip()
