# SPDX-License-Identifier: Apache-2.0
"""The kernel's own driver on the NVMe example: blocks, a file system, fio, resets under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run

TESTS = "--tests", "examples/nvme/guest_tests"
NVME = {
    "DRIVER": "nvme",
    "ENDPOINT": "examples.nvme.controller:Nvme",
    "PACKAGES": "fio,e2fsprogs",
}
# Of the conditions of a test, the plain one and the hardest. `make test-all` has all of them: in
# the stage `kernels`, and behind an IOMMU.
SHORT = "not 30s and not [held] and not [noncoherent] and not [eager-3s]"


def test_nvme(tmp_path: Path) -> None:
    """The driver bound by itself when the guest booted, or got its functions back.

    Each DMA of the controller keeps to the profile's limits.
    """
    done = run(tmp_path, *TESTS, "-k", SHORT, PROFILE="nvme", **NVME)
    assert done.status == 0, done.output
    assert "0 failed" in done.output
    assert "dma_map_sg: DMA_TO_DEVICE" in done.output


@pytest.mark.full
def test_half_a_minute_of_fio(tmp_path: Path) -> None:
    done = run(tmp_path, *TESTS, "-k", "30s", **NVME)
    assert done.status == 0, done.output


@pytest.mark.full
def test_behind_an_iommu(tmp_path: Path) -> None:
    done = run(tmp_path, *TESTS, "-k", "not 30s", IOMMU="intel", **NVME)
    assert done.status == 0, done.output


@pytest.mark.full
def test_a_file_survives_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(16 << 20))
    monkeypatch.setenv("NVME_FILES", str(disk))
    done = run(tmp_path, *TESTS, "-k", "directory_of_files and not held", **NVME)
    assert done.status == 0, done.output
    magic = disk.read_bytes()[1024 + 0x38 : 1024 + 0x3A]
    assert magic == b"\x53\xef", "ext4's superblock"


@pytest.mark.full
def test_by_the_interrupt_line(tmp_path: Path) -> None:
    """The guest's kernel uses no message: each completion comes by INTx, of one pair of queues."""
    words = "not 30s and not kernel_knows and not direct"
    done = run(tmp_path, *TESTS, "-k", words, APPEND="pci=nomsi", **NVME)
    assert done.status == 0, done.output
    trace = (done.folder / "device-trace.jsonl").read_text()
    assert '"event": "intx", "level": true' in trace
    assert '"event": "msi-x"' not in trace
