# SPDX-License-Identifier: Apache-2.0
"""The guest's userland: Debian's Python and a few programs, the same beside every kernel."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment import build_cache, debian, manifest

SUITE = "bookworm"
_PACKAGES = (
    *("python3", "kmod", "bash", "pciutils", "util-linux", "mount"),
    *("dash", "coreutils", "grep"),
)
PROGRAMS = (
    *("usr/bin/python3.11", "bin/kmod", "bin/dash", "bin/ls", "bin/cat", "bin/dd", "bin/stty"),
    *("bin/mkdir", "bin/rm", "bin/cp", "bin/ln", "bin/sleep", "bin/uname", "bin/grep"),
    *(
        "usr/bin/head",
        "usr/bin/tail",
        "usr/bin/od",
        "usr/bin/env",
        "usr/bin/id",
        "usr/bin/wc",
        "usr/bin/tty",
    ),
    *("bin/bash", "bin/dmesg", "bin/mount", "usr/bin/lspci", "usr/bin/setpci"),
)
"""Those that the guest has."""
# Parts of the standard library that no guest needs.
_LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data"}
# Extensions whose libraries are large: each megabyte costs 20 ms of boot under emulation.
_LEFT_OUT_EXTENSIONS = ("nis", "_dbm", "_sqlite3", "_curses", "_curses_panel")


@dataclass(frozen=True, slots=True)
class Userland:
    """Unpacked packages below ``root``, and their versions by name."""

    root: Path
    versions: dict[str, str]

    @property
    def python(self) -> str:
        """The version of its Python."""
        return self.versions["python3.11-minimal"]

    @property
    def identity(self) -> str:
        """The part of a cache key that differs when the packages do."""
        return build_cache.digest_of(self.versions)


def _inputs() -> dict[str, Any]:
    return {"suite": SUITE, "packages": _PACKAGES, "format": 3}


def in_cache() -> Userland | None:
    """Return the userland that the cache holds, by its manifest alone; makes nothing."""
    recorded = build_cache.recorded(build_cache.TREE, _inputs())
    return None if recorded is None else _userland(recorded)


def make(progress: Callable[[str], None]) -> Userland:
    """Return the userland, from the cache when it is there, with every file as it was unpacked.

    EnvironmentFailure when packages cannot be fetched.
    """

    def build(staging: Path) -> dict[str, Any]:
        progress(f"unpacking Debian {SUITE}: Python and a few programs (about 120 MB, once)")
        root = staging / "root"
        root.mkdir()
        return {"versions": debian.unpack(SUITE, _PACKAGES, root)}

    folder = build_cache.entry(build_cache.TREE, _inputs(), build, progress)
    return _userland(manifest.read(folder))


def _userland(recorded: dict[str, Any]) -> Userland:
    root = build_cache.folder_of(build_cache.TREE, _inputs()) / "root"
    return Userland(root, recorded["versions"])


def copy_programs(tree: Path, root: Path) -> None:
    """Copy Python, the `PROGRAMS` and their libraries from ``tree`` into the guest's ``root``."""
    stdlib = tree / "usr/lib/python3.11"
    shutil.copytree(
        stdlib,
        root / "usr/lib/python3.11",
        symlinks=True,
        ignore=lambda folder, names: [
            name
            for name in names
            if name == "__pycache__"
            or name.startswith("config-3")
            or name.partition(".")[0] in _LEFT_OUT_EXTENSIONS
            or (Path(folder) == stdlib and name in _LEFT_OUT)
        ],
    )
    programs = [tree / name for name in PROGRAMS]
    extensions = [
        path
        for path in sorted((stdlib / "lib-dynload").glob("*.so"))
        if path.name.partition(".")[0] not in _LEFT_OUT_EXTENSIONS
    ]
    for path in [*programs, *debian.needed_libraries(tree, [*programs, *extensions])]:
        inside = path.relative_to(tree)
        target = root / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(debian.within(tree, inside), target)
        target.chmod(0o755)
    loader = root / debian.LOADER
    loader.parent.mkdir(exist_ok=True)
    shutil.copyfile(debian.within(tree, debian.LOADER), loader)
    loader.chmod(0o755)
    for link, name in (
        ("usr/bin/python3", "python3.11"),
        ("bin/sh", "dash"),
        *((f"sbin/{tool}", "../bin/kmod") for tool in ("insmod", "rmmod", "lsmod", "modinfo")),
    ):
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(name)
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "etc"):
        (root / folder).mkdir()
