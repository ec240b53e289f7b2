# SPDX-License-Identifier: Apache-2.0
"""Disk space: checked before a long job begins, and one message for its lack."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

_SAID = re.compile(r"No space left on device|Disk quota exceeded|enough free space")


def amount(size: int) -> str:
    """Return a number of bytes in words: ``3 KB``, ``250 MB``, ``1.2 GB`` (powers of ten)."""
    if size >= 1_000_000_000:
        return f"{size / 1e9:.1f} GB"
    if size >= 1_000_000:
        return f"{size / 1e6:.0f} MB"
    return f"{(size + 999) // 1000} KB"


def free(folder: Path) -> int:
    """Return the bytes that this user may still write where ``folder`` is, or is to be made."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize


def is_the_reason(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that a file system or quota is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False


def check_output(said: str) -> None:
    """Raise OSError ENOSPC when a tool's output says that the disk is full."""
    if found := _SAID.search(said):
        line = next(line for line in said.splitlines() if found.group(0) in line)
        raise OSError(errno.ENOSPC, line.strip())


def failure(what: str, folder: Path, needed: int, detail: str = "") -> EnvironmentFailure:
    """Return the failure that says how much is needed, where, and what moves it."""
    said = f" ({detail})" if detail else ""
    return EnvironmentFailure(
        f"no space: making the {what} needs {amount(needed)} in {folder}, "
        f"{amount(free(folder))} are free{said}",
        f"free some ({advice.command('clean-cache')} removes what the cache holds), or set "
        "DMA_REHEARSAL_CACHE=/a/roomier/folder to move the cache",
    )


def require(what: str, folder: Path, needed: int) -> None:
    """EnvironmentFailure when fewer than ``needed`` bytes are free in ``folder``."""
    if free(folder) < needed:
        raise failure(what, folder, needed)
