# SPDX-License-Identifier: Apache-2.0
"""The receive path maps each buffer and unmaps none."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("never_unmapped"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("never_unmapped", mended=mended):
        round_trip()
