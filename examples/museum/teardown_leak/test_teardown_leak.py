# SPDX-License-Identifier: Apache-2.0
"""Buffers in flight are freed without being unmapped."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("teardown_leak"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("teardown_leak", mended=mended):
        round_trip()
