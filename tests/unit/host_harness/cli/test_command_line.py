# SPDX-License-Identifier: Apache-2.0
"""The command line's start, which is part of each run's time."""

from __future__ import annotations

import subprocess
import sys

from dma_rehearsal.host_harness.environment.payload import SOURCE

# Each takes a tenth of a second or more, and serves other commands or other processes.
FOREIGN = ("dma_rehearsal.device.endpoints", "hypothesis", "rich", "xdist")


def test_a_run_imports_nothing_of_other_commands() -> None:
    script = (
        "import sys, dma_rehearsal.host_harness.cli.command_line\n"
        "print(*(name for name in sys.argv[1:] if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "json", *FOREIGN],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["json"]
