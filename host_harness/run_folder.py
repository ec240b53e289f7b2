"""The folder of a run's artefacts, and the ``latest`` link that always shows a whole one."""

from __future__ import annotations

import os
import time
from pathlib import Path


def create(root: Path) -> Path:
    """Make a new folder below ``root`` (``build/runs``), named by the time and this process."""
    name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    folder = root / name
    folder.mkdir(parents=True)
    return folder


def publish(folder: Path) -> None:
    """Let ``latest`` beside ``folder`` name it, by an atomic rename."""
    link = folder.parent / "latest"
    partial = folder.parent / f".latest-{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(link)


def tail(path: Path, lines: int = 20) -> list[str]:
    """Return the last lines of a text file; nothing when it is not there."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
