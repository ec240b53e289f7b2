# SPDX-License-Identifier: Apache-2.0
"""A suite's unpacked kernel: older and newer layouts, and suites that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import kernel_tree
from dma_rehearsal.host_harness.process.errors import UsageError

RELEASE = "7.3.4+deb13-cloud-amd64"


def lay(root: Path, *names: str) -> None:
    """Make the files, and the headers' configuration."""
    for name in (*names, f"usr/src/linux-headers-{RELEASE}/.config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        (f"boot/vmlinuz-{RELEASE}", f"lib/modules/{RELEASE}"),  # Debian 12
        (f"boot/vmlinuz-{RELEASE}", f"usr/lib/modules/{RELEASE}"),  # Debian 13
        (f"usr/lib/modules/{RELEASE}/vmlinuz", f"usr/lib/modules/{RELEASE}"),  # its backports
    ],
)
def test_each_layout_of_the_packages(tmp_path: Path, image: str, modules: str) -> None:
    lay(tmp_path, image, f"{modules}/kernel/x.ko")
    (tmp_path / modules / "modules.builtin").write_text("kernel/drivers/virtio/virtio-pci.ko\n")
    assert kernel_tree.release_of(tmp_path, "trixie") == RELEASE
    tree = kernel_tree.unpacked("trixie", tmp_path, RELEASE, "identity")
    assert (tree.bzimage, tree.modules) == (tmp_path / image, tmp_path / modules)
    assert tree.builtin == {"virtio_pci"}
    assert tree.config.is_file()


def test_a_name_that_is_not_a_suite_is_told_the_suites(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KERNEL=buster is not a kernel") as error:
        kernel_tree.in_cache("buster")
    assert "trixie-backports" in error.value.hint
    with pytest.raises(UsageError):
        kernel_tree.make("buster", print)
    assert not list(tmp_path.iterdir())


def test_without_a_list_of_what_is_built_in() -> None:
    assert kernel_tree.builtin_names(Path("/nonexistent")) == frozenset()
