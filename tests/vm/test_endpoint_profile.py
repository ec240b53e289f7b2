# SPDX-License-Identifier: Apache-2.0
"""A profile's limits on a device of a user's own: its driver asks for what they need, or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import check, run_in

TESTS = ("--tests", "examples/own_driver/guest_tests")
MIRROR = {
    "ENDPOINT": "examples.own_driver.mirror_device:Mirror",
    "MODULE": "examples/own_driver/driver",
}
MASK = "ADDRESS_BITS"  # the driver sets a mask of 64 bits


@pytest.mark.full
@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ("address_bits = 64\nmax_segments = 1\nmax_transfer = '64 KiB'\n", 0),
        ("address_bits = 32\n", 1),
    ],
)
def test_a_mask_that_is_wider_than_the_profile_s_is_found(
    tmp_path: Path, limits: str, status: int
) -> None:
    (tmp_path / "mine.toml").write_text(limits)
    profile = str(tmp_path / "mine.toml")
    done = run_in(SOURCE, tmp_path / "runs", *TESTS, PROFILE=profile, **MIRROR)
    check(done, status)
    assert (f"was refused: {MASK}, and the test did not announce it" in done.output) is bool(status)
    assert ("made by mirror_map at mirror.c:" in done.output) is bool(status)
