# SPDX-License-Identifier: Apache-2.0
"""The command ``report``: writes the page of a run again, from the run's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.run_page import page


def run(folder: Path, out: TextIO) -> Status:
    """Write the page and say where it is; UsageError when the folder is not that of a run."""
    if not (folder / "status").is_file():
        raise UsageError(
            f"{folder} is not the folder of a run: it has no file 'status'",
            "name one below build/runs, such as build/runs/latest",
        )
    began = time.monotonic()
    try:
        path = page.write(folder)
    except OSError as error:
        raise UsageError(
            f"the page cannot be written into {folder}: {error.strerror}",
            "make the folder writable, or copy it",
        ) from error
    seconds = time.monotonic() - began
    print(f"{path} ({path.stat().st_size // 1024} KiB, written in {seconds:.2f} s)", file=out)
    return Status.PASSED
