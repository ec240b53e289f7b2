# SPDX-License-Identifier: Apache-2.0
"""An NVMe driver's PRP list has physical addresses."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("prp_list"):
        round_trip()


@pytest.mark.rehearse(bounce=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("prp_list", mended=mended):
        round_trip()
