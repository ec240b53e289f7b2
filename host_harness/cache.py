"""The environment's cache: folders named by the digest of what went into them.

An entry is built in a temporary folder under an exclusive lock and then renamed, so a run that is
killed half-way leaves no entry that looks whole, and two runs that want the same one build it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import EnvironmentFailure

_STAGING_PREFIX = ".staging-"


def cache_root() -> Path:
    """Return the cache's folder: DMA_REHEARSAL_CACHE, else dma-rehearsal in XDG_CACHE_HOME."""
    if chosen := os.environ.get("DMA_REHEARSAL_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "dma-rehearsal"


def digest_of(inputs: object) -> str:
    """Return 16 hexadecimal digits that stand for ``inputs`` (anything JSON can say)."""
    text = json.dumps(inputs, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def digest_of_files(root: Path, pattern: str = "**/*") -> str:
    """Return a digest of the names and contents of the files below ``root``."""
    total = hashlib.sha256()
    for path in sorted(root.glob(pattern)):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_tree(path: Path) -> None:
    """Remove a folder even where its own folders are not writable (Debian ships some so)."""

    path.chmod(0o700)
    for folder, inner, _ in os.walk(path):  # from the top: a folder is listed after its turn here
        for name in inner:
            if not (child := Path(folder, name)).is_symlink():
                child.chmod(0o700)
    shutil.rmtree(path)


def entry(kind: str, inputs: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
    """Return the folder of the entry that ``inputs`` describe; build it if it is not there.

    ``build`` fills the folder it is given and returns what else belongs in the manifest, such as
    the versions that were resolved. EnvironmentFailure when the cache cannot be written.
    """
    root = cache_root() / kind
    final = root / digest_of(inputs)
    if (final / "manifest.json").is_file():
        return final
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / ".lock"):
            for leftover in root.glob(f"{_STAGING_PREFIX}*"):
                remove_tree(leftover)
            if (final / "manifest.json").is_file():
                return final
            if final.exists():
                remove_tree(final)
            staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
            try:
                staging.chmod(0o755)
                resolved = build(staging)
                manifest = {"inputs": inputs, **resolved}
                (staging / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
                staging.rename(final)
            except BaseException:
                remove_tree(staging)
                raise
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFailure(
            f"making the {kind} in {cache_root()} failed: {error}",
            "the folder must be writable and have 1.5 GB free; DMA_REHEARSAL_CACHE moves it",
        ) from error
    return final


def manifest(path: Path) -> dict[str, Any]:
    """Return an entry's manifest."""
    loaded: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return loaded
