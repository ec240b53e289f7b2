# SPDX-License-Identifier: Apache-2.0
"""Bytecode for the guest, made by the guest's own Python, which runs here by its own loader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    compile_for_guest,
    debian,
    guest_packages,
    manifest,
)
from dma_rehearsal.host_harness.process import advice, children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_TIMEOUT_S = 120
_PYTHON = "usr/bin/python3.11"
# Of the unpacked packages, all that this Python reads.
_PARTS = tuple(
    f"root/{each}/" for each in ("usr/bin", "usr/lib/python3.11", *debian.LIBRARY_FOLDERS[:2])
)


def compile_folder(tree: Path, folder: Path, name_in_guest: str) -> None:
    """Compile all of ``folder``, which is ``name_in_guest`` there; ``tree`` has the guest's Python.

    Unchecked hashes: the guest never compares times or sources. A file that does not compile stays
    a source, and its import in the guest raises the error, with file and line.
    EnvironmentFailure when nothing was compiled: then that Python does not run on this host.
    """
    done = _run(
        tree,
        *("-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"),
        *("-s", str(folder), "-p", name_in_guest, str(folder)),
    )
    if not any(folder.rglob("*.pyc")):
        raise _failure(done)


def compiler(tree: Path) -> dict[str, Any]:
    """Return all that bytecode depends on, besides a file's contents and its name in the guest."""
    return {
        "python": str(tree),
        "python packages": guest_packages.versions(),
        "recipe": build_cache.digest_of(
            [Path(module).read_text() for module in (__file__, compile_for_guest.__file__)]
        ),
    }


def compiled(
    tree: Path, sources: Mapping[str, bytes], scratch: Path, name_in_guest: str
) -> dict[str, dict[str, bytes]]:
    """Return the files of bytecode of each source, by their paths.

    ``sources`` are Python files by their paths below ``name_in_guest``; ``scratch`` is a folder to
    be made. A test file has pytest's rewritten bytecode, too: it saves each session a third of its
    collection. EnvironmentFailure when the guest's Python does not run on this host, or is damaged.
    """
    _check(tree)
    for name, data in sources.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    packages = _packages(tree)
    done = _run(
        tree, compile_for_guest.__file__, str(packages), str(scratch), name_in_guest
    )  # fmt: skip
    if done.returncode != 0:
        raise _failure(done)
    made: dict[str, list[str]] = json.loads(done.stdout)
    return {
        source: {name: (scratch / name).read_bytes() for name in names}
        for source, names in made.items()
    }


def _check(tree: Path) -> None:
    """Remove unpacked packages whose Python is not as it was unpacked: EnvironmentFailure then."""
    if wrong := manifest.fault_of(tree.parent, _PARTS):
        removed = build_cache.discard(tree.parent)
        raise EnvironmentFailure(
            f"the guest's Python in {tree} is damaged ({wrong})",
            "run again: it has been removed, and will be unpacked again"
            if removed
            else f"when no other run uses it: {advice.command('clean-cache')}, then run again",
        )


def _packages(tree: Path) -> Path:
    """Return a folder with pytest, for the guest's Python; with bytecode, or it starts slowly."""

    def build(staging: Path) -> dict[str, object]:
        guest_packages.copy(staging / "site", guest_packages.PYTEST)
        compile_folder(tree, staging / "site", "/")
        return {}

    return build_cache.entry(build_cache.PYTEST, compiler(tree), build) / "site"


def _run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return children.run(
        [*debian.loader_command(tree, _PYTHON), "-I", *words],
        timeout_s=_TIMEOUT_S,
        environment={"PYTHONHOME": str(tree / "usr")},
    )


def _failure(done: subprocess.CompletedProcess[str]) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"the guest's Python compiled nothing (status {done.returncode}); it said:\n"
        f"{(done.stdout + done.stderr).strip()[-2000:]}",
        "it runs from the unpacked packages by their own loader: remove the cache "
        f"({advice.command('clean-cache')}) and run again; if it fails again, this host "
        "cannot run it",
    )
