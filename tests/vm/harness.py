# SPDX-License-Identifier: Apache-2.0
"""A run of the harness that a test ends from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.processes import processes_that_name, wait_until
from tests.runs import LIMIT_S, clean_environment

BOOT, TESTS = b"init: up", b"test_in[1] PASSED"


class Harness:
    """A run of the harness whose scratch folders are its own."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.runs = folder / "runs"
        self.scratch = [folder / name for name in ("t", "r")]
        for each in self.scratch:
            each.mkdir()
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    # It dies with the worker of pytest-xdist that has started it.
                    *("setpriv", "--pdeathsig", "KILL"),
                    sys.executable,
                    "-m",
                    "host_harness",
                    "test",
                    "--runs",
                    str(self.runs),
                    *arguments,
                ],
                cwd=SOURCE,
                env=clean_environment(
                    TMPDIR=str(self.scratch[0]), XDG_RUNTIME_DIR=str(self.scratch[1]), **settings
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def await_text(self, text: bytes) -> None:
        """Wait until the harness or the guest's console has said this."""

        def said() -> bool:
            logs = [self.output, *self.runs.glob("*/console.log")]
            return any(text in log.read_bytes() for log in logs)

        wait_until(f"{text!r} is said", said, LIMIT_S)
        assert len(processes_that_name(str(self.runs))) >= 3, "harness, device process and QEMU"

    def check_nothing_is_left(self) -> None:
        wait_until("every process ends", lambda: not processes_that_name(str(self.runs)))
        wait_until(
            "every scratch file goes", lambda: not [p for d in self.scratch for p in d.iterdir()]
        )
