# SPDX-License-Identifier: Apache-2.0
"""Frees the space of the environment's cache, except for what a build or a running VM uses."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from dma_rehearsal.host_harness.environment import build_cache, file_locks
from dma_rehearsal.host_harness.environment.build_cache import Note
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure


def clean(note: Note = build_cache.say) -> int:
    """Remove every unused entry and return how many bytes that freed.

    Entries that a running build or VM uses stay, and so do files that are not the cache's; ``note``
    reports each. EnvironmentFailure when something cannot be removed.
    """
    root = build_cache.cache_root()
    freed = 0
    try:
        for kind in build_cache.KINDS:
            freed += _clean_kind(root / kind.name, note)
        notes = root / build_cache.NOTES_FOLDER, root / build_cache.PROBED_FOLDER
        for path in (path for folder in notes for path in folder.glob("*")):
            path.unlink()
        for folder in (*notes, root):
            with contextlib.suppress(OSError):
                folder.rmdir()
    except OSError as error:
        raise EnvironmentFailure(
            f"the cache {root} cannot be removed: {error}",
            f"remove it as its owner ({build_cache.owner(root)})",
        ) from error
    for path in root.glob("*"):
        if path.name not in {kind.name for kind in build_cache.KINDS}:
            note(f"{path} does not belong to the cache; left alone")
    return freed


def _clean_kind(folder: Path, note: Note) -> int:
    if not folder.is_dir():
        return 0
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"{folder} is kept: a build is running there")
            return 0
        except OSError as error:
            if error.errno not in file_locks.UNSUPPORTED:
                raise
            note(f"{folder} is kept: no locks there tell whether it is in use; remove it by hand")
            return 0
        before = build_cache.usage(folder)
        build_cache.remove_leftovers(folder)
        for path in list(folder.iterdir()):
            if build_cache.is_entry(path) and not build_cache.remove_unused(path):
                note(f"{path} is kept: a run uses it")
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            with contextlib.suppress(OSError):  # another process has used it since
                folder.rmdir()
            return before
        return before - build_cache.usage(folder)
    finally:
        os.close(lock)
