# SPDX-License-Identifier: Apache-2.0
"""Options of a kernel's configuration: each that is lacking is named, with what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment import kernel_config, kernel_tree
from dma_rehearsal.host_harness.environment.kernel_config import NEEDS, Need, Use
from dma_rehearsal.host_harness.process.errors import UsageError
from tests.unit.host_harness.environment import built_tree


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.names[0])
def test_each_need_fires_by_name(tmp_path: Path, need: Need) -> None:
    if need.off:
        folder = built_tree.make(tmp_path, **dict.fromkeys(need.names, "y"))
    else:
        folder = built_tree.make(tmp_path, *need.names)
    with pytest.raises(UsageError, match="is not configured for this rig") as error:
        kernel_tree.check(str(folder), set(Use))
    lines = str(error.value.args[0]).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"  CONFIG_{need.names[0]}")
    assert need.what_for in lines[1]
    assert f"-{'d' if need.off else 'e'} {need.names[0]}" in error.value.hint


def test_all_that_is_lacking_is_named_at_once(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path, "UIO", "PCI_MSI")
    with pytest.raises(UsageError) as error:
        kernel_tree.check(str(folder), {Use.RIG})
    assert "CONFIG_PCI_MSI is not set" in str(error.value)
    assert "CONFIG_UIO is not set" in str(error.value)
    assert "-e PCI_MSI" in error.value.hint


@pytest.mark.parametrize(
    ("option", "use"),
    [("PVH", Use.PVH), ("VFIO_PCI", Use.IOMMU), ("STACKTRACE", Use.DRIVER)],
)
def test_an_option_of_another_use_is_not_asked_for(tmp_path: Path, option: str, use: Use) -> None:
    folder = str(built_tree.make(tmp_path, option))
    kernel_tree.check(folder, set(Use) - {use})
    with pytest.raises(UsageError, match=rf"{option} is not set.*\({use}\)"):
        kernel_tree.check(folder, {use})


def test_a_module_will_do(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path, UIO="m", VIRTIO_CONSOLE="m")
    kernel_tree.check(str(folder), set(Use))


def test_one_of_two_will_do(tmp_path: Path) -> None:
    folder = built_tree.make(tmp_path, "DMA_OPS", ARCH_HAS_DMA_OPS="y")
    kernel_tree.check(str(folder), set(Use))


def test_a_suites_kernel_has_all() -> None:
    kernel_tree.check("trixie", set(Use))


def test_uses_of_a_run() -> None:
    assert kernel_config.uses(pvh=False, iommu=False, driver=False) == {Use.RIG}
    assert kernel_config.uses(pvh=True, iommu=True, driver=True) == set(Use)
