# SPDX-License-Identifier: Apache-2.0
"""The rig's own modules: those that a kernel can have."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.environment import guest_driver, kernel_tree
from tests.unit.host_harness import images
from tests.unit.host_harness.environment import built_tree


def names(kernel: kernel_tree.KernelTree) -> list[str]:
    """Return the folders of the modules."""
    return [path.name for path in guest_driver.folders(kernel)]


def test_a_suites_kernel_has_all(tmp_path: Path) -> None:
    assert names(images.kernel_tree(tmp_path)) == ["driver", "dma_ops"]


def test_a_built_kernel_with_dma_operations_has_all(tmp_path: Path) -> None:
    folder = str(built_tree.make(tmp_path))
    assert names(kernel_tree.make(folder, print)) == ["driver", "dma_ops"]


def test_a_built_kernel_without_dma_operations_has_the_driver_alone(tmp_path: Path) -> None:
    folder = str(built_tree.make(tmp_path, "DMA_OPS"))
    assert names(kernel_tree.make(folder, print)) == ["driver"]
