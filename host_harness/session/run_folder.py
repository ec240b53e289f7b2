# SPDX-License-Identifier: Apache-2.0
"""The folder of a run's artefacts, and the ``latest`` link that always shows a whole one."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from dma_rehearsal.host_harness.machine.launch import LIVE
from dma_rehearsal.host_harness.process.errors import EnvironmentFailure, Status

KEPT = 200  # folders of runs
ASIDE = "not-restored"
"""The folder of a run with the artefacts of VMs that did not come up from a saved state."""
_OF_THE_RUN = ("environment.json", "seed", "status")
_NAME = re.compile(r"\d{8}-\d{6}-\d+")


def create(root: Path) -> Path:
    """Make a new folder below ``root`` (``build/runs``), named by the time and this process.

    EnvironmentFailure when it cannot be made. Of the older ones the last ``KEPT`` stay.
    """
    name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    folder = root / name
    try:
        folder.mkdir(parents=True)
        _prune(root)
    except OSError as error:
        raise EnvironmentFailure(
            f"the run's folder {folder} cannot be made: {error.strerror}",
            "name another place with --runs (pytest: --vm-runs)",
        ) from error
    return folder


def _prune(root: Path) -> None:
    """Remove old runs; one with a ``LIVE`` file has a running VM."""
    runs = sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name))
    for old in runs[:-KEPT]:
        if not (old / LIVE).exists():
            shutil.rmtree(old, ignore_errors=True)


def of_vm(folder: Path, number: int) -> Path:
    """Return where the artefacts of a run's VM go: of the first into ``folder`` itself.

    The folder of another, which counts from 2, is made.
    """
    if number == 1:
        return folder
    own = folder / f"vm{number}"
    own.mkdir()
    return own


def set_aside(folder: Path) -> None:
    """Move the artefacts of VMs that did not come up into the folder `ASIDE`, for those of others.

    The facts of the run itself stay.
    """
    aside = folder / ASIDE
    aside.mkdir()
    for path in list(folder.iterdir()):
        if path != aside and path.name not in _OF_THE_RUN:
            path.rename(aside / path.name)


def set_status(folder: Path, status: Status) -> None:
    """Write a run's status, and let ``latest`` name the run."""
    (folder / "status").write_text(f"{status.value}\n")
    publish(folder)


def publish(folder: Path) -> None:
    """Let ``latest`` beside ``folder`` name it, by an atomic rename."""
    link = folder.parent / "latest"
    partial = folder.parent / f".latest-{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    partial.replace(link)
