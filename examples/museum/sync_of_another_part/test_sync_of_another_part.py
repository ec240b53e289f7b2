# SPDX-License-Identifier: Apache-2.0
"""The sync is of another part than the data."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("sync_of_another_part"):
        round_trip()


@pytest.mark.rehearse(coherent=False)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("sync_of_another_part", mended=mended):
        round_trip()
