# SPDX-License-Identifier: Apache-2.0
"""Device processes, as a supervisor starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[3]


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "dma_rehearsal.device"),
        *("--exerciser-socket", str(folder / "exerciser")),
        *("--platform-socket", str(folder / "platform"), *more),
    ]


@contextmanager
def running(
    folder: Path, *more: str, cwd: Path = ROOT, stderr: int | IO[bytes] = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    path = [folder for folder in (os.environ.get("PYTHONPATH"), str(ROOT)) if folder]
    process = subprocess.Popen(
        arguments(folder, *more),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
