# SPDX-License-Identifier: Apache-2.0
"""A board with bounce buffers shows a missing sync."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("bounce_never_synced"):
        round_trip()


@pytest.mark.rehearse(bounce=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("bounce_never_synced", mended=mended):
        round_trip()
