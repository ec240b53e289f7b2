# SPDX-License-Identifier: Apache-2.0
"""Builds kernel modules from a folder of sources: the guest's own driver, and a user's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.environment import disk_space, driver_build, kernel_module
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure
from dma_rehearsal.host_harness.process.janitor import remove_tree

_TIMEOUT_S = 300
_LAST_LINES = 30
_WARNING = re.compile(r"\bwarning:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Built:
    """Modules that were built, in which way, and what the compiler warned of (or nothing)."""

    modules: tuple[Path, ...]
    way: driver_build.Way
    warnings: str

    @property
    def compiler(self) -> str:
        """The compiler that was used, in words."""
        return _compiler(self.way)


def build(
    kernel: KernelTree,
    source: Path,
    staging: Path,
    progress: Callable[[str], None],
    *,
    words: str,
    fix: str,
    flags: Sequence[str] = (),
) -> Built:
    """Build the modules of the folder ``source`` for ``kernel``, and put them into ``staging``.

    ``source`` has a Kbuild, or a Makefile for it, with ``obj-m``; it is copied, and stays as it is.
    ``words`` name what is built, ``fix`` says what to do when it does not build. ``flags`` are more
    words for make, such as ``KCFLAGS=-g``. EnvironmentFailure, with the compiler's last lines, when
    it does not build, and when the modules are of another kernel.
    """
    way = driver_build.choose(kernel)
    progress(f"building {words} for {kernel.release} with {_compiler(way)} ({way})")
    work = staging / "work" / "module"
    shutil.copytree(source, work)
    words_for_make = [f"M={driver_build.root_of(way, work)}", *flags]
    done = driver_build.make_modules(kernel, way, work, words_for_make, _TIMEOUT_S)
    made = sorted(work.rglob("*.ko"))
    if done.returncode != 0 or not made:
        disk_space.check_output(done.stderr + done.stdout)
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        raise EnvironmentFailure(
            f"{words} does not build for the kernel {kernel.release} with {_compiler(way)} "
            f"({way}):\n{said}",
            f"{fix}"
            if kernel.is_built
            else f"{fix}, or choose another way with {driver_build.SETTING}="
            f"{'|'.join(driver_build.Way)}",
        )
    modules = tuple(Path(shutil.copy(path, staging / path.name)) for path in made)
    remove_tree(staging / "work")
    for module in modules:
        if (built_for := kernel_module.vermagic(module)) != kernel.release:
            raise EnvironmentFailure(
                f"kernel and module do not match: the kernel is {kernel.release}, {module.name} "
                f"was built for {built_for}",
                f"{advice.command('clean-cache')}, then run again",
            )
    warnings = done.stderr.rstrip() if _WARNING.search(done.stderr) else ""
    return Built(modules, way, warnings)


def _compiler(way: driver_build.Way) -> str:
    if way is driver_build.Way.HOST:
        return "the host's compiler"
    return "the compiler of the kernel's suite"
