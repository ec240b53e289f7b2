# SPDX-License-Identifier: Apache-2.0
"""The kernel's own virtio drivers on the model of a block device: messages, the line, an IOMMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import run_in

RUN = {
    "DRIVER": "virtio_pci",
    "KERNEL_MODULES": "virtio_blk",
    "ENDPOINT": "examples.virtio_blk.blk_device:VirtioBlk",
}
TESTS = ("--tests", "examples/virtio_blk/guest_tests")


def test_the_short_form(tmp_path: Path) -> None:
    words = "written or line_tells or queue_has"
    done = run_in(SOURCE, tmp_path / "runs", *TESTS, "-k", words, **RUN)
    assert done.status == 0, done.output


@pytest.mark.full
@pytest.mark.parametrize("iommu", ["", "intel"])
def test_all_of_it(tmp_path: Path, iommu: str) -> None:
    done = run_in(SOURCE, tmp_path / "runs", *TESTS, IOMMU=iommu, **RUN)
    assert done.status == 0, done.output
