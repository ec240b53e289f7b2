# SPDX-License-Identifier: Apache-2.0
"""An error path leaves the first mapping."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("leak_on_error"):
        round_trip()


@pytest.mark.rehearse(every_failure=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("leak_on_error", mended=mended):
        round_trip()
