# SPDX-License-Identifier: Apache-2.0
"""The kernel module that watches a driver's DMA API, call by call, without and with an IOMMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run

CALLS = ("--tests", "tests/vm/dma_ops/guest_tests")
DRIVER = {
    "MODULE": "tests/vm/dma_ops/drivers",
    "ENDPOINT": "tests.vm.zoo.ring_device:RingDevice",
}


@pytest.mark.parametrize("iommu", ["", "intel"])
def test_right_calls_and_mistakes(iommu: str, tmp_path: Path) -> None:
    settings = {"IOMMU": iommu} if iommu else {}
    done = run(tmp_path, *CALLS, **DRIVER, **settings)
    assert done.status == 0, done.output
    for test in "right_calls[kind-atomic]", "mistakes[noncoherent-kind-unmap_call]":
        assert f"test_{test} PASSED" in done.output


def test_objects_with_red_zones(tmp_path: Path) -> None:
    """SLUB's notes are between the objects, and it changes them while one of two is mapped."""
    done = run(tmp_path, *CALLS, "-k", "objects_come_and_go", **DRIVER, APPEND="slub_debug=FZPU")
    assert done.status == 0, done.output
    assert "test_right_calls[noncoherent-kind-objects_come_and_go] PASSED" in done.output
