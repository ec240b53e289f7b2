# SPDX-License-Identifier: Apache-2.0
"""The device reads a buffer that was mapped for it to write."""

import pytest


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver, round_trip):
    with driver("read_of_receive_buffer"):
        round_trip()


@pytest.mark.parametrize("mended", [False, True], ids=["buggy", "mended"])
def test_with_the_rig(driver, round_trip, mended):
    with driver("read_of_receive_buffer", mended=mended):
        round_trip()
