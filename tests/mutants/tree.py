# SPDX-License-Identifier: Apache-2.0
"""Copies of the tree in which mutants are tried: the checkout stays as it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

# Python holds a compiled file against its source's seconds and size. Each mutant gets seconds that
# no other source has, or one would run in another's place.
_seconds = count(2_000_000_000)


def files(root: Path) -> list[str]:
    """Return the tree's files that git tracks or would track. CalledProcessError outside of git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in set(said.split("\0")) if name and (root / name).is_file())


def digests(root: Path) -> dict[str, str]:
    """Return what the contents of each of the tree's files come to."""
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files(root)}


def copy(root: Path, folder: Path) -> None:
    """Make ``folder`` a fresh copy of the tree, compiled, with the times of its files."""
    shutil.rmtree(folder, ignore_errors=True)
    names = files(root)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
    folders = {Path(name).parts[0] for name in names if Path(name).match("*/*.py")}
    command = [sys.executable, "-m", "compileall", "-q", *sorted(folders)]
    subprocess.run(command, cwd=folder, check=False)  # one that does not compile fails its tests


@contextmanager
def mutated(folder: Path, file: str, source: str) -> Iterator[None]:
    """Have this source in the copy for the length of the block."""
    path = folder / file
    before, times = path.read_bytes(), path.stat()
    path.write_text(source)
    seconds = next(_seconds)
    os.utime(path, (seconds, seconds))
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
