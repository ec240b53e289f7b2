# SPDX-License-Identifier: Apache-2.0
"""Received bytes are read without a sync."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("no_sync_for_cpu"):
        round_trip()


@pytest.mark.rehearse(coherent=False)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("no_sync_for_cpu", mended=mended):
        round_trip()
