# SPDX-License-Identifier: Apache-2.0
"""This project's own kernel modules, built for the kernel that the guest boots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    driver_build,
    kernel_config,
    module_build,
)
from dma_rehearsal.host_harness.environment.kernel_config import Use
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.environment.payload import KERNEL_CODE, SOURCE

_DMA_OPERATIONS = "dma_ops"


def folders(kernel: KernelTree) -> list[Path]:
    """Return the folders of sources, one for each module that a kernel can have.

    The module of the DMA operations is left out where the user's own kernel lacks what it needs;
    `kernel_tree.check` has refused such a kernel to a run that tests a driver.
    """
    names = list(KERNEL_CODE)
    if kernel.is_built and kernel_config.lacking(kernel_config.read(kernel.config), {Use.DRIVER}):
        names.remove(_DMA_OPERATIONS)
    found = (SOURCE / "guest" / name for name in names)
    return [path for path in found if (path / "Kbuild").is_file()]


def inputs(kernel: KernelTree, source: Path) -> dict[str, Any]:
    """Return all that the module of a folder depends on."""
    found: dict[str, Any] = {
        "kernel": kernel.identity,
        "sources": build_cache.digest_of_files(source),
        "format": 4,
    }
    if (way := driver_build.asked()) is not None:  # the way that was asked for is really used
        found["way"] = way
    return found


def is_made(kernel: KernelTree) -> bool:
    """Return whether the cache holds the modules; makes nothing."""
    return all(
        build_cache.recorded(build_cache.DRIVER, inputs(kernel, source)) is not None
        for source in folders(kernel)
    )


def warnings(kernel: KernelTree) -> list[str]:
    """Return what the compiler warned of when the modules in the cache were built."""
    found = [
        build_cache.recorded(build_cache.DRIVER, inputs(kernel, each)) for each in folders(kernel)
    ]
    return [each["warnings"] for each in found if each and each["warnings"]]


def make(
    kernel: KernelTree, progress: Callable[[str], None], check: Callable[[], None]
) -> list[Path]:
    """Return the modules, from the cache where their inputs are unchanged.

    ``check`` is called before one is built. EnvironmentFailure when one does not build.
    """
    made: list[Path] = []
    for source in folders(kernel):

        def build(staging: Path, source: Path = source) -> dict[str, Any]:
            check()
            built = module_build.build(
                *(kernel, source, staging, progress),
                words=f"guest/{source.name}",
                fix=f"fix guest/{source.name}",
            )
            if built.warnings:
                progress(f"the compiler warned:\n{built.warnings}")
            return {"built_with": built.compiler, "way": built.way, "warnings": built.warnings}

        entry = build_cache.entry(build_cache.DRIVER, inputs(kernel, source), build, progress)
        made += sorted(entry.glob("*.ko"))
    return made
