# SPDX-License-Identifier: Apache-2.0
"""A buffer is unmapped by its physical address."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("unmap_physical"):
        round_trip()


@pytest.mark.rehearse(bounce=True)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("unmap_physical", mended=mended):
        round_trip()
