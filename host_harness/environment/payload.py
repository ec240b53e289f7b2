# SPDX-License-Identifier: Apache-2.0
"""The payload of a run: ``guest/`` and the tests as an initramfs of their own, with bytecode.

The kernel unpacks several archives that follow each other. Ours is first and uncompressed, the base
image is second: a legacy lz4 archive has no end mark, so nothing may follow it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from dma_rehearsal.host_harness.environment import (
    build_cache,
    debian,
    guest_packages,
    host_tools,
    rewrite_asserts,
)
from dma_rehearsal.host_harness.process import advice, children
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, UsageError
from dma_rehearsal.host_harness.process.janitor import remove_tree

SOURCE = Path(__file__).resolve().parents[2]
# The guest has one import name, too: guest/, and of device/ the layout that both sides share.
PACKAGE_FOLDER = "opt/dma-rehearsal/dma_rehearsal"
GUEST_FOLDER = f"{PACKAGE_FOLDER}/guest"
PROJECT_FOLDER = "opt/dma-rehearsal/project"
BOOT_FILES = (
    *("guest/__init__.py", "guest/agent/__init__.py", "guest/linux/__init__.py"),
    *("guest/agent/init.py", "guest/agent/channel.py", "guest/agent/parked.py"),
    *("guest/agent/payload_files.py", "guest/agent/pci_functions.py"),
    *("guest/agent/saved_state.py", "guest/agent/shells.py", "guest/linux/kernel_modules.py"),
    *("device/layout/__init__.py", "device/layout/cache.py", "device/layout/dma.py"),
    *("device/layout/exerciser.py", "device/layout/extension.py", "device/layout/platform.py"),
    *("device/layout/protection.py", "device/layout/result_frames.py"),
    *("device/layout/ring.py", "device/layout/witness.py"),
)
"""The files, below `SOURCE`, that a parked guest has in its memory: no message replaces them."""
_TIMEOUT_S = 120
_IGNORED = ("__pycache__", ".*", "*.pyc")


@dataclass(frozen=True, slots=True)
class GuestTests:
    """The tests that the guest runs. ``selected`` are pytest's arguments: paths below ``root``.

    Node ids start at ``root``, on both sides. ``root`` is this project's ``guest/``, or the root of
    another project. Only the selected folders of that are copied; for a file, its folder and the
    folders above it that have a conftest.py or are packages.
    """

    root: Path = SOURCE / "guest"
    selected: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether they are this project's."""
        return self.root == SOURCE / "guest"

    @property
    def root_in_guest(self) -> str:
        """The folder in the guest that corresponds to ``root``."""
        return f"/{GUEST_FOLDER if self.is_own else PROJECT_FOLDER}"

    def files(self) -> list[Path]:
        """Return the paths to copy, relative to ``root``; UsageError for a missing path."""
        for word in self.selected:
            if word.startswith("-"):
                raise UsageError(f"guest tests: {word!r} is not a path", "write it as ./NAME")
        if self.is_own:
            return []
        found = []
        for word in self.selected:
            path = (self.root / word.partition("::")[0]).resolve()
            if not path.exists():
                raise UsageError(
                    f"guest tests: {path} does not exist", "name a file or folder of guest tests"
                )
            if not path.is_relative_to(self.root):
                raise UsageError(
                    f"guest tests: {path} is not below the root of the tests, {self.root}",
                    "start in the project that contains it (or give pytest a --rootdir)",
                )
            found.append(self._copied_for(path).relative_to(self.root))
        return found

    def _copied_for(self, path: Path) -> Path:
        folder = path if path.is_dir() else path.parent
        if folder == self.root:
            return path
        while folder.parent != self.root and any(
            (folder.parent / name).exists() for name in ("conftest.py", "__init__.py")
        ):
            folder = folder.parent
        return folder


def compile_bytecode(tree: Path, folder: Path, name_in_guest: str) -> None:
    """Compile ``folder`` with the guest's own Python, run by its own loader.

    Unchecked hashes: the guest never compares times or sources. A file that does not compile stays
    a source, and its import in the guest raises the error, with file and line.
    EnvironmentFailure when nothing was compiled: then that Python does not run on this host.
    """
    done = children.run(
        [
            *debian.loader_command(tree, "usr/bin/python3.11"),
            *("-I", "-m", "compileall", "-q", "-j", "0"),
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", str(folder), "-p", name_in_guest, str(folder)),
        ],
        timeout_s=_TIMEOUT_S,
        environment={"PYTHONHOME": str(tree / "usr")},
    )
    if not any(folder.rglob("*.pyc")):
        raise EnvironmentFailure(
            f"the guest's Python compiled nothing (status {done.returncode}); it said:\n"
            f"{(done.stdout + done.stderr).strip()[-2000:]}",
            "it runs from the unpacked packages by their own loader: remove the cache "
            f"({advice.command('clean-cache')}) and run again; if it fails again, this host "
            "cannot run it",
        )


def keep_rewritten_asserts(tree: Path, packages: Path, folder: Path, name_in_guest: str) -> None:
    """Write pytest's rewritten bytecode for the test files in ``folder``; ``packages`` has pytest.

    It saves each run a third of its collection. Where this fails, because a pytest keeps bytecode
    differently, pytest rewrites the files in the guest.
    """
    children.run(
        [
            *debian.loader_command(tree, "usr/bin/python3.11"),
            *("-I", rewrite_asserts.__file__, str(packages), str(folder), name_in_guest),
        ],
        timeout_s=_TIMEOUT_S,
        environment={"PYTHONHOME": str(tree / "usr")},
    )


def pack_cpio(root: Path, target: Path) -> None:
    """Write the folder ``root`` as a newc archive, all owned by root, in a stable order."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with target.open("wb") as out:
        host_tools.run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "-R", "0:0"],
            input="\0".join(names).encode() + b"\0",
            stdout=out,
            cwd=root,
            timeout_s=_TIMEOUT_S,
        )


def _inputs(tree: Path, tests: GuestTests) -> dict[str, Any]:
    return {
        "files": build_cache.digest_of_files(SOURCE / "guest"),
        "layout": build_cache.digest_of_files(SOURCE / "device" / "layout"),
        "tests": {str(path): _digest(tests.root / path) for path in tests.files()},
        "python": str(tree),
        "python packages": guest_packages.versions(),
        "format": 6,
    }


def is_made(tree: Path) -> bool:
    """Return whether the cache has the archive of this checkout's ``guest/``."""
    return build_cache.recorded(build_cache.PAYLOAD, _inputs(tree, GuestTests())) is not None


def make(tree: Path, base: Path, tests: GuestTests) -> IO[bytes]:
    """Return the initramfs of a run: this project's ``guest/``, the tests, the image's archive.

    The archive of ``guest/`` and the tests is cached by the digest of its files. The file has no
    name, so nothing is left of it; QEMU opens it through /proc/self/fd.
    """
    source = SOURCE / "guest"
    copied = tests.files()

    def build(staging: Path) -> dict[str, object]:
        root = staging / "root"
        target = root / GUEST_FOLDER
        _copy(source, target, "driver")
        _copy(SOURCE / "device" / "layout", root / PACKAGE_FOLDER / "device" / "layout")
        for package in PACKAGE_FOLDER, f"{PACKAGE_FOLDER}/device":
            (root / package / "__init__.py").touch()
        for path in copied:
            _copy(tests.root / path, root / PROJECT_FOLDER / path)
        compile_bytecode(tree, root / "opt", "/opt")
        guest_packages.copy(staging / "packages")
        keep_rewritten_asserts(tree, staging / "packages", root / "opt", "/opt")
        remove_tree(staging / "packages")
        shutil.copyfile(source / "agent" / "init.py", root / "init")
        (root / "init").chmod(0o755)
        pack_cpio(root, staging / "payload.cpio")
        remove_tree(root)
        return {}

    entry = build_cache.entry(build_cache.PAYLOAD, _inputs(tree, tests), build)
    out = os.fdopen(os.memfd_create("initramfs"), "wb")
    for part in (entry / "payload.cpio", base):
        with part.open("rb") as archive:
            shutil.copyfileobj(archive, out, 1 << 20)
    out.flush()
    return out


def is_copied(name: Path) -> bool:
    """Return whether a file of ``guest/``, by its name below it, reaches the guest."""
    left_out = name.parts[0] == "driver"
    return not left_out and not any(
        fnmatch(part, pattern) for part in name.parts for pattern in _IGNORED
    )


def _copy(source: Path, target: Path, *left_out: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignored = shutil.ignore_patterns(*_IGNORED, *left_out)
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _digest(path: Path) -> str:
    if path.is_dir():
        return build_cache.digest_of_files(path)
    return build_cache.digest_of_files(path.parent, path.name)
