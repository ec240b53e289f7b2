# SPDX-License-Identifier: Apache-2.0
"""A mapping that failed is given to the device."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("unchecked_error"):
        round_trip()


@pytest.mark.rehearse(every_failure=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("unchecked_error", mended=mended):
        round_trip()
