# SPDX-License-Identifier: Apache-2.0
"""The manifest of a cache entry, which shows whether the entry is still as it was made.

``manifest.json`` lists every file and link of the entry; ``seal`` beside it is the digest of the
manifest, so that a manifest that was cut off, or altered into other valid JSON, is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

# A manifest's value for a path: a file's size in bytes, or size and SHA-256; a link's target.
Content = int | list[Any] | str


def write(folder: Path, facts: dict[str, Any], *, hashed: bool) -> None:
    """Seal a folder: write its manifest, of ``facts`` and the contents, and the seal.

    ``hashed`` keeps the digest of each file, too; else its size alone.
    """
    written = json.dumps({**facts, "contents": _contents(folder, hashed)}, indent=1) + "\n"
    (folder / "manifest.json").write_text(written)
    (folder / "seal").write_text(hashlib.sha256(written.encode()).hexdigest() + "\n")


def read(path: Path) -> dict[str, Any]:
    """Return an entry's manifest.

    OSError when it, or the seal beside it, cannot be read; ValueError when it is not as sealed.
    """
    written = (path / "manifest.json").read_bytes()
    if hashlib.sha256(written).hexdigest() != (path / "seal").read_text(errors="replace").strip():
        raise ValueError("changed since it was sealed")
    loaded: dict[str, Any] = json.loads(written)
    return loaded


def content(path: Path, sealed: dict[str, Any], name: str) -> bytes:
    """Return a file of an entry, whose manifest ``sealed`` has digests.

    OSError when it cannot be read; ValueError when it is not as sealed.
    """
    data = (path / name).read_bytes()
    wanted = sealed["contents"].get(name)
    if wanted != [len(data), hashlib.sha256(data).hexdigest()]:
        raise ValueError(f"{name}: its contents changed")
    return data


def fault_of(path: Path, below: tuple[str, ...] = ("",)) -> str | None:
    """Return, in a few words, what has changed in an entry; None when it is sound.

    ``below`` are the starts of the paths to look at.
    """
    try:
        loaded = read(path)
    except (OSError, ValueError) as error:
        return f"manifest.json: {brief(error)}"
    contents: dict[str, Content] = loaded["contents"]
    for name, wanted in contents.items():
        if not name.startswith(below):
            continue
        try:
            wrong = _difference(f"{path}/{name}", wanted)
        except OSError as error:
            wrong = brief(error)
        if wrong:
            return f"{name}: {wrong}"
    return None


def brief(error: Exception) -> str:
    """Return an error in a few words, without the path."""
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return str(error)


def _contents(folder: Path, hashed: bool) -> dict[str, Content]:
    contents: dict[str, Content] = {}
    for inner, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = f"{inner}/{name}"
            status = os.lstat(path)
            key = os.path.relpath(path, folder)
            if stat.S_ISLNK(status.st_mode):
                contents[key] = str(Path(path).readlink())
            elif stat.S_ISREG(status.st_mode):
                contents[key] = [status.st_size, _sha256(path)] if hashed else status.st_size
    return contents


def _difference(path: str, wanted: Content) -> str | None:
    status = os.lstat(path)
    if isinstance(wanted, str):
        if not stat.S_ISLNK(status.st_mode) or str(Path(path).readlink()) != wanted:
            return "not the same link any more"
        return None
    size, digest = (wanted[0], wanted[1]) if isinstance(wanted, list) else (wanted, None)
    if not stat.S_ISREG(status.st_mode):
        return "not a file any more"
    if status.st_size != size:
        return f"{status.st_size} bytes where {size} were"
    if digest is not None and _sha256(path) != digest:
        return "its contents changed"
    return None


def _sha256(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - thousands of paths are looked at as text
        return hashlib.file_digest(file, "sha256").hexdigest()
