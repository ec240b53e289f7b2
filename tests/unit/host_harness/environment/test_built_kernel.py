# SPDX-License-Identifier: Apache-2.0
"""A kernel that the user has built: a tree that can be used, and each that cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import (
    built_kernel,
    driver_build,
    kernel_modules,
    kernel_tree,
)
from dma_rehearsal.host_harness.environment.driver_build import Way
from dma_rehearsal.host_harness.environment.kernel_config import Use
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from tests.unit.host_harness.environment import built_tree


def test_tree_that_is_built(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path / "linux")
    kernel_tree.check(str(folder), set(Use))
    tree = kernel_tree.make(str(folder), print)
    assert tree == kernel_tree.in_cache(str(folder))
    assert (tree.release, tree.headers, tree.make_words) == (built_tree.RELEASE, folder, ())
    assert tree.vmlinux is None
    assert kernel_modules.is_builtin(tree, "virtio-pci")
    assert kernel_modules.paths(tree) == {
        "uio": folder / "drivers/uio/uio.ko",
        "msr": folder / "arch/x86/kernel/msr.ko",
    }


def test_tree_that_clang_built(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path, CC_IS_CLANG="y")
    (folder / "vmlinux").write_text("")
    found = built_kernel.find(str(folder))
    assert (found.make_words, found.vmlinux) == (("LLVM=1",), folder / "vmlinux")


def _not_a_tree(folder: Path) -> None:
    (folder / "Makefile").unlink()


def _not_configured(folder: Path) -> None:
    (folder / ".config").unlink()


def _of_arm(folder: Path) -> None:
    text = "# Linux/arm64 6.12.3 Kernel Configuration\nCONFIG_ARM64=y\n"
    (folder / ".config").write_text(text)


def _of_32_bits(folder: Path) -> None:
    (folder / ".config").write_text(f"{built_tree.TITLE}\nCONFIG_X86_32=y\n")


def _not_built(folder: Path) -> None:
    (folder / "arch/x86/boot/bzImage").unlink()


def _without_symbols(folder: Path) -> None:
    (folder / "Module.symvers").unlink()


def _without_tools(folder: Path) -> None:
    (folder / "scripts/mod/modpost").unlink()


def _configured_again(folder: Path) -> None:
    later = (folder / "include/config/auto.conf").stat().st_mtime + 10
    os.utime(folder / ".config", (later, later))


def _without_versions(folder: Path) -> None:
    (folder / ".config").write_text(built_tree.config(MODVERSIONS="y"))
    os.utime(folder / ".config", (1, 1))
    symbols = "0x00000000\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"
    (folder / "Module.symvers").write_text(symbols)


@pytest.mark.parametrize(
    ("damage", "said", "hint"),
    [
        (_not_a_tree, "is not the tree of a kernel", "with O=, that folder"),
        (_not_configured, "is not configured", "make defconfig"),
        (_of_arm, "is a kernel for arm64", "X86_64"),
        (_of_32_bits, "is a kernel for 32-bit x86", "X86_64"),
        (_not_built, "is not built .it has no arch/x86/boot/bzImage", "make bzImage"),
        (_without_symbols, "is not built .it has no Module.symvers", "make modules"),
        (_without_tools, "is not built .it has no scripts/mod/modpost", "make modules_prepare"),
        (_configured_again, "was configured again since it was built", "make"),
        (_without_versions, "has no versions of the kernel's symbols", "make"),
    ],
)
def test_tree_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], None], said: str, hint: str
) -> None:
    folder = built_tree.make(tmp_path)
    damage(folder)
    with pytest.raises(UsageError, match=said) as error:
        kernel_tree.make(str(folder), print)
    assert hint in error.value.hint


def test_versions_of_symbols_are_enough(tmp_path: Path) -> None:
    built_kernel.find(str(built_tree.make(tmp_path, MODVERSIONS="y")))


@pytest.mark.parametrize("name", [".config", "Module.symvers", "arch/x86/boot/bzImage"])
def test_a_new_build_is_another_kernel(tmp_path: Path, name: str) -> None:
    folder = built_tree.make(tmp_path)
    before = built_kernel.find(str(folder)).identity
    assert built_kernel.find(str(folder)).identity == before
    path = folder / name
    path.write_text(f"{path.read_text()}\n# new\n")
    os.utime(path, (1, 1))
    assert built_kernel.find(str(folder)).identity != before


def test_a_new_module_is_another_kernel(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path)
    before = built_kernel.find(str(folder)).identity
    (folder / "drivers/uio/uio.ko").write_text("new")
    assert built_kernel.find(str(folder)).identity != before


def test_modules_are_built_by_the_hosts_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = kernel_tree.make(str(built_tree.make(tmp_path)), print)
    monkeypatch.setenv("DMA_REHEARSAL_BUILD", "chroot")
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda _way: None)
    assert driver_build.choose(tree) is Way.HOST
    monkeypatch.setattr(driver_build, "unavailable_reason", lambda way: f"no {way} here")
    with pytest.raises(EnvironmentFailure, match=r"no module can be built for KERNEL=.*no host"):
        driver_build.choose(tree)
