# SPDX-License-Identifier: Apache-2.0
"""A counter lies in the cache line of a receive buffer."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("shared_line"):
        round_trip()


@pytest.mark.rehearse(coherent=False)
@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("shared_line", mended=mended):
        round_trip()
