# SPDX-License-Identifier: Apache-2.0
"""A kernel's own modules: which others they need, packed in each way, and what is missing."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import kernel_modules
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from tests.unit.host_harness import images
from tests.unit.host_harness.environment.elf_module import module


@pytest.fixture
def kernel(tmp_path: Path) -> KernelTree:
    """A kernel with virtio_ring built in, and no module yet."""
    tree = replace(images.kernel_tree(tmp_path), builtin=frozenset({"virtio_ring"}))
    tree.modules.mkdir(parents=True)
    return tree


def add(kernel: KernelTree, name: str, *needed: str) -> Path:
    """Give the kernel a module that needs others."""
    path = kernel.modules / "kernel" / "drivers" / f"{name}.ko"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(module(b"license=GPL\0depends=" + ",".join(needed).encode() + b"\0"))
    return path


def test_those_that_are_needed_come_first_and_once(kernel: KernelTree) -> None:
    for name, needed in {
        "vfio-pci": ("vfio-pci-core", "vfio"),
        "vfio-pci-core": ("irqbypass", "vfio"),
        "vfio": (),
        "irqbypass": (),
        "vfio_iommu_type1": ("vfio",),
    }.items():
        add(kernel, name, *(each.replace("-", "_") for each in needed))
    order, missing = kernel_modules.closure(kernel, ("vfio_iommu_type1", "vfio_pci"))
    names = [kernel_modules.name_of(path) for path in order]
    assert names == ["vfio", "vfio_iommu_type1", "irqbypass", "vfio-pci-core", "vfio-pci"]
    assert not missing


def test_what_is_built_in_is_neither_loaded_nor_missing(kernel: KernelTree) -> None:
    add(kernel, "virtio_pci", "virtio-ring")
    order, missing = kernel_modules.closure(kernel, ("virtio_pci", "virtio_ring", "uio"))
    assert [kernel_modules.name_of(path) for path in order] == ["virtio_pci"]
    assert missing == ["uio"]
    assert kernel_modules.is_builtin(kernel, "virtio-ring")


def test_modules_that_need_each_other_end(kernel: KernelTree) -> None:
    add(kernel, "a", "b")
    add(kernel, "b", "a")
    order, missing = kernel_modules.closure(kernel, ("a",))
    assert [kernel_modules.name_of(path) for path in order] == ["b", "a"]
    assert not missing


def _zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("needs zstd: apt-get install zstd")
    return subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".xz", lzma.compress), (".gz", gzip.compress), (".zst", _zstd), ("", bytes)],
)
def test_packed_modules(
    kernel: KernelTree, tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    plain = add(kernel, "zram", "zsmalloc")
    data = plain.read_bytes()
    plain.unlink()
    plain.with_name(f"zram.ko{suffix}").write_bytes(pack(data))
    add(kernel, "zsmalloc")
    order, _ = kernel_modules.closure(kernel, ("zram",))
    assert [kernel_modules.copy(path, tmp_path) for path in order] == ["zsmalloc", "zram"]
    assert (tmp_path / "zram.ko").read_bytes() == data


def test_damaged_module_is_named(kernel: KernelTree) -> None:
    path = add(kernel, "uio")
    path.write_bytes(b"")
    with pytest.raises(EnvironmentFailure, match=r"uio\.ko is not a kernel module"):
        kernel_modules.closure(kernel, ("uio",))
    path.unlink()
    path.with_name("uio.ko.xz").write_bytes(b"no xz")
    with pytest.raises(EnvironmentFailure, match=r"uio\.ko\.xz cannot be unpacked"):
        kernel_modules.closure(kernel, ("uio",))
