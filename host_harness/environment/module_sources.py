# SPDX-License-Identifier: Apache-2.0
"""The sources of a user's kernel module: the files that make would read, and a copy to build.

MODULE= names a folder with a Kbuild or a Makefile, a C file, or a module that is already built.
Nothing is written into the user's folder: make runs in a copy, and its digest is the key of what it
makes. Kbuild files and sources may reach out of the folder by "../"; the copy has these files too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatch
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache
from dma_rehearsal.host_harness.process.errors import UsageError

OPTION = "MODULE"
MAKEFILES = ("Kbuild", "Makefile")  # in the order in which Kbuild looks for them
# What make writes, what no makefile of a kernel module reads, and hidden files.
_IGNORED = (
    *(".*", "*.o", "*.ko", "*.mod", "*.mod.c", "*.a", "*.cmd", "modules.order", "Module.symvers"),
    *("__pycache__", "*.py", "*.pyc", "*.md", "*.rst", "*.toml", "*~", "#*#", "node_modules"),
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_FILES_MAX = 4000
_BYTES_MAX = 64 << 20
_LEVELS_MAX = 3  # folders above the module's own that its files may name
_C_FILE = (".c", ".h", ".S", ".s", ".inc")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]{1,400})"', re.MULTILINE)
# In a makefile: a path upwards, alone or after a variable that Kbuild sets to the module's folder.
_UPWARDS = re.compile(
    r"(?<![\w.])(?:\$[({](?:src|obj|M|PWD|CURDIR)[)}]/)?((?:\.\./)*\.\.(?:/[\w./+-]*)?)"
)


class SourceKind(Enum):
    """The kinds of thing that MODULE= can name."""

    FOLDER = auto()
    FILE = auto()
    BUILT = auto()


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """One thing that MODULE= names: ``text`` as the user wrote it, ``path`` without links."""

    text: str
    path: Path
    kind: SourceKind

    @property
    def folder(self) -> Path:
        """The folder of the sources, or of the built module."""
        return self.path if self.kind is SourceKind.FOLDER else self.path.parent


def find(text: str) -> ModuleSource:
    """Return what ``text`` names; UsageError when no module can be made of it."""
    path = Path(text).resolve()
    if path.is_dir():
        if not any((path / name).is_file() for name in MAKEFILES):
            files = sorted(each.name for each in path.glob("*.c") if _NAME.fullmatch(each.name))
            hint = "name a folder with a Kbuild file (obj-m := NAME.o)"
            if files:
                hint += f", or a single C file, as {OPTION}={text.rstrip('/')}/{files[0]}"
            raise UsageError(f"{OPTION}={text}: the folder has neither Kbuild nor Makefile", hint)
        return ModuleSource(text, path, SourceKind.FOLDER)
    if not path.is_file():
        raise UsageError(
            f"{OPTION}={text} does not exist",
            "name a folder with a Kbuild file, a C file, or a built module (.ko)",
        )
    kinds = {".c": SourceKind.FILE, ".ko": SourceKind.BUILT}
    if path.suffix not in kinds or not _NAME.fullmatch(path.name):
        raise UsageError(
            f"{OPTION}={text} is neither a folder, nor a C file (NAME.c), nor a built module "
            "(NAME.ko), of a name that make can take",
            "name a folder with a Kbuild file, a C file, or a built module",
        )
    return ModuleSource(text, path, kinds[path.suffix])


def is_read(path: Path) -> bool:
    """Return whether a build may read a file of this name."""
    return not _is_ignored(path.name)


def looked_at(source: ModuleSource) -> list[Path]:
    """Return the files and folders whose change asks for another build.

    It is for a watch, which looks while files are edited, and so it raises no error.
    """
    if source.kind is SourceKind.BUILT:
        return [source.path]
    try:
        copy = read(source)
    except UsageError:
        return [source.folder]
    return [copy.root / name for name in copy.files if (copy.root / name).exists()]


@dataclass(frozen=True, slots=True)
class Copy:
    """The files of a module, as they were when they were read.

    ``root`` is the user's folder that corresponds to the copy's, and ``files`` have their paths
    below it. Make runs in ``folder``, a path below it too ("." for the root itself).
    """

    root: Path
    folder: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """A digest of the names and the contents of the files."""
        words = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return build_cache.digest_of([self.folder, words])

    def write(self, target: Path) -> None:
        """Write the files below the folder ``target``."""
        for name, data in self.files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if data.startswith(b"#!"):
                path.chmod(0o755)  # a makefile may run it


def read(source: ModuleSource) -> Copy:
    """Read the sources of a folder or a C file; UsageError when they cannot be built in a copy."""
    reader = _Reader(source)
    if source.kind is SourceKind.FILE:
        reader.add(source.path)
    else:
        reader.add_folder(source.path)
    reader.follow()
    root = Path(os.path.commonpath([source.folder, *(path.parent for path in reader.found)]))
    files = {str(path.relative_to(root)): data for path, data in sorted(reader.found.items())}
    folder = str(source.folder.relative_to(root))
    if source.kind is SourceKind.FILE:
        kbuild = f"obj-m := {source.path.stem}.o\n".encode()
        files[str(Path(folder) / "Kbuild")] = kbuild
    return Copy(root, folder, files)


class _Reader:
    """Reads the files of a module, and those outside its folder that they name."""

    def __init__(self, source: ModuleSource) -> None:
        self.found: dict[Path, bytes] = {}
        self._source = source
        self._size = 0
        self._waiting: list[Path] = []

    def add(self, path: Path) -> None:
        """Add a file, once."""
        if path in self.found:
            return
        try:
            if not path.is_file():
                return  # a socket or a pipe, or removed since its folder was listed
            size = path.stat().st_size
            if len(self.found) >= _FILES_MAX or self._size + size > _BYTES_MAX:
                raise UsageError(
                    f"{OPTION}={self._source.text} has more than {_FILES_MAX} files, or "
                    f"{_BYTES_MAX >> 20} MiB, to copy",
                    "name the folder that has the driver's own Kbuild file",
                )
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{OPTION}={self._source.text}: {path} cannot be read: {error.strerror}",
                "make it readable",
            ) from error
        self._size += len(data)
        self.found[path] = data
        self._waiting.append(path)

    def add_folder(self, folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> None:
        """Add all files below a folder but those that no build reads; links are followed."""
        try:
            status = folder.stat()
            here = status.st_dev, status.st_ino
            names = sorted(os.listdir(folder)) if here not in above else []  # noqa: PTH208
        except OSError as error:
            raise UsageError(
                f"{OPTION}={self._source.text}: {folder} cannot be read: {error.strerror}",
                "make it readable",
            ) from error
        for name in names:
            if _is_ignored(name):
                continue
            path = folder / name
            if path.is_dir():
                self.add_folder(path, above | {here})
            else:
                self.add(path)

    def follow(self) -> None:
        """Add what the files name outside the folder, and what these name in turn."""
        while self._waiting:
            path = self._waiting.pop()
            inside = path.is_relative_to(self._source.path)
            for place, name in self._named(path):
                target = Path(os.path.normpath(place / name))
                if inside and target.is_relative_to(self._source.path):
                    continue
                self._add_outside(path, target)

    def _named(self, path: Path) -> Iterator[tuple[Path, str]]:
        """Yield the relative paths that a file names, each with the folder where it may start."""
        text = self.found[path].decode(errors="replace")
        if path.suffix in _C_FILE:
            for name in _INCLUDE.findall(text):
                yield path.parent, name
        elif path.name.startswith(("Kbuild", "Makefile")) or path.suffix == ".mk":
            for name in _UPWARDS.findall(text):
                for place in {path.parent, self._source.folder}:  # one that is included has $(src)
                    yield place, name

    def _add_outside(self, path: Path, target: Path) -> None:
        candidates = [target]
        if target.suffix == ".o":  # an object of a makefile: its source
            candidates = [target.with_suffix(suffix) for suffix in (".c", ".S")]
        there = [each for each in candidates if each.exists()]
        if not there:
            return  # the compiler looks in other folders too, and complains where it finds none
        base = self._source.folder
        levels = len(base.parts) - len(Path(os.path.commonpath([base, target])).parts)
        if levels > _LEVELS_MAX:
            raise UsageError(
                f"{OPTION}={self._source.text}: {path} names {target}, {levels} folders above the "
                f"module's own; a copy reaches {_LEVELS_MAX}",
                f"name the folder above, with a Kbuild that has obj-m += {base.name}/",
            )
        for each in there:
            if not each.is_dir():
                self.add(each)
            elif base.is_relative_to(each):  # a folder above, as for -I$(src)/..: not all of it
                for header in sorted(each.glob("*.h")):
                    self.add(header)
                if (each / "include").is_dir() and not _is_kernel_tree(each):
                    self.add_folder(each / "include")
            elif not _is_kernel_tree(each):
                self.add_folder(each)


def _is_ignored(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _IGNORED)


def _is_kernel_tree(folder: Path) -> bool:
    """Whether a folder is a kernel's own tree, which a makefile names to enter it."""
    return all((folder / name).exists() for name in ("Makefile", "scripts", "include/linux"))
