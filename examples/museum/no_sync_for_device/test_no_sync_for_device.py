# SPDX-License-Identifier: Apache-2.0
"""A streaming mapping is taken for coherent memory."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("no_sync_for_device"):
        round_trip()


@pytest.mark.rehearse(coherent=False)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("no_sync_for_device", mended=mended):
        round_trip()
