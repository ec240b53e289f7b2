# SPDX-License-Identifier: Apache-2.0
"""A device of one's own behind the IOMMU: DMA that is not mapped raises the guest's fault."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import run_in

TESTS = Path(__file__).parent / "guest_tests"


def test_unmapped_dma_fails_its_test_unless_it_is_announced(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(TESTS, tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_unmapped.py"),
        ENDPOINT="examples.checksum.checksum_device:Checksum",
        IOMMU="intel",
    )
    assert done.status == 1
    for test, outcome in (("mapped", "PASSED"), ("unmapped_and_announced", "PASSED")):
        assert f"test_unmapped.py::test_{test} {outcome}" in done.output
    assert "test_unmapped.py::test_unmapped " in done.output
    failed = done.output.partition("= FAILURES =")[2]
    assert "DMAR fault: read by 00:" in failed
    assert "at 0x5000" in failed
    assert "test_unmapped_and_announced" not in failed
