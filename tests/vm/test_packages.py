# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian packages in the guest: from a boot, and from the saved state of this boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import run_in

TESTS = ("--tests", "tests/vm/packages/guest_tests")
SETTINGS = {"PACKAGES": "e2fsprogs,mount", "KERNEL_MODULES": "loop,ext4"}


def test_a_file_system_is_made_by_programs_of_a_package(tmp_path: Path) -> None:
    for _ in range(2):
        done = run_in(SOURCE, tmp_path / "runs", *TESTS, **SETTINGS)
        assert done.status == 0, done.output
    assert "restored: " in done.output.splitlines()[-1]


@pytest.mark.full  # it asks the mirror each time
def test_a_package_that_does_not_exist(tmp_path: Path) -> None:
    done = run_in(SOURCE, tmp_path / "runs", *TESTS, PACKAGES="e2fsprogs,no-such-package-1")
    assert done.status == 2, done.output
    assert "has no package no-such-package-1" in done.output
