# SPDX-License-Identifier: Apache-2.0
"""The modules that come with a kernel: where they are, and which others they need.

A module says itself what it needs (``depends=`` in its .modinfo). Debian ships no modules.dep:
depmod writes it at an installation. Names are compared with ``-`` taken for ``_``, as modprobe
does.
"""

from __future__ import annotations

import gzip
import lzma
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from dma_rehearsal.host_harness.environment import built_kernel, host_tools, kernel_module
from dma_rehearsal.host_harness.environment.kernel_tree import KernelTree
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_UNPACK_TIMEOUT_S = 60


def normal(name: str) -> str:
    """Return a module's name as the kernel writes it."""
    return name.replace("-", "_")


def name_of(path: Path) -> str:
    """Return the name of a module's file, without what it is compressed with."""
    return path.name.partition(".ko")[0]


def is_builtin(kernel: KernelTree, name: str) -> bool:
    """Return whether a kernel has ``name`` in itself, where others have a module."""
    return normal(name) in kernel.builtin


def paths(kernel: KernelTree) -> dict[str, Path]:
    """Return the files of all modules of a kernel, by their names with underscores."""
    if kernel.is_built:
        return {normal(name_of(path)): path for path in built_kernel.modules(kernel.root)}
    found = {}
    for folder, _, names in os.walk(kernel.modules):
        for name in names:
            if name.endswith(_SUFFIXES):
                found[normal(name.partition(".ko")[0])] = Path(folder) / name
    return found


def contents(path: Path) -> bytes:
    """Return a module as ELF; EnvironmentFailure when it cannot be unpacked."""
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise EnvironmentFailure(
            f"{path} cannot be unpacked: {error}",
            f"{advice.command('clean-cache')}, then run again",
        ) from error
    if path.suffix == ".zst":
        with tempfile.TemporaryFile() as out:
            host_tools.run(["zstd", "-dcq", str(path)], timeout_s=_UNPACK_TIMEOUT_S, stdout=out)
            out.seek(0)
            return out.read()
    return data


def closure(
    kernel: KernelTree, names: Iterable[str], known: Mapping[str, Path] | None = None
) -> tuple[list[Path], list[str]]:
    """Return the files of ``names`` and of all that they need, and the names that are missing.

    Each follows those that it needs, so that they can be loaded in this order. What the kernel has
    built in is neither listed nor missing. ``known`` is `paths`, where the caller has it.
    """
    files = paths(kernel) if known is None else known
    order: list[Path] = []
    missing: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if normal(name) in seen:
            return
        seen.add(normal(name))
        path = files.get(normal(name))
        if path is None:
            if not is_builtin(kernel, name):
                missing.append(name)
            return
        for needed in kernel_module.depends(path, contents(path)):
            visit(needed)
        order.append(path)

    for name in names:
        visit(name)
    return order, missing


def copy(path: Path, folder: Path) -> str:
    """Copy a module into ``folder``, unpacked; return its name there, without the ``.ko``."""
    name = name_of(path)
    (folder / f"{name}.ko").write_bytes(contents(path))
    return name
