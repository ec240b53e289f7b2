# SPDX-License-Identifier: Apache-2.0
"""A guest image, and a kernel's tree, of which no file exists."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.environment.guest_image import Image
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree


def kernel_tree(root: Path) -> KernelTree:
    """The tree of a kernel 6.1, in the folder ``root``."""
    headers = root / "usr/src/linux-headers-6.1"
    return KernelTree(
        name="bookworm",
        release="6.1",
        root=root,
        headers=headers,
        config=headers / ".config",
        bzimage=root / "boot/vmlinuz-6.1",
        modules=root / "lib/modules/6.1",
        builtin=frozenset(),
        identity="0123456789abcdef",
    )


def image(folder: Path) -> Image:
    """An image in ``folder``, whose trees are there, too."""
    return Image(
        folder / "vmlinux",
        folder / "bzImage",
        folder / "base",
        folder,
        {},
        "6.1",
        kernel_tree(folder),
    )
