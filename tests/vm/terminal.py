# SPDX-License-Identifier: Apache-2.0
"""A user's terminal, at which the harness runs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pexpect

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.runs import clean_environment

LIMIT_S = 900  # the first run of a machine makes the environment
PROMPT = r"guest:\S+# "


class Terminal:
    """Starts the harness at terminals of its own; everything is ended with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def start(self, *arguments: str, folder: Path = SOURCE, **settings: str) -> pexpect.spawn[str]:
        checkout = folder if (folder / "dma_rehearsal").exists() else SOURCE
        child = pexpect.spawn(
            sys.executable,
            ["-m", "dma_rehearsal.host_harness", *arguments],
            cwd=str(folder),
            env=clean_environment(PYTHONPATH=str(checkout), **settings),
            timeout=60,
            encoding="utf-8",
            dimensions=(33, 111),
        )
        self._stack.callback(child.close, force=True)
        child.logfile_read = sys.stdout
        return child
