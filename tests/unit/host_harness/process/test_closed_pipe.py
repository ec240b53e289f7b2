# SPDX-License-Identifier: Apache-2.0
"""Commands whose reader leaves early."""

from __future__ import annotations

import sys

import pytest

from tests.unit.host_harness.wrapped import run_within

HARNESS = f"{sys.executable} -m dma_rehearsal.host_harness"
# More than a pipe holds, printed by the process and by a child of it.
LONG = f"""{sys.executable} -c '
import subprocess, sys
from dma_rehearsal.host_harness.process import closed_pipe
closed_pipe.discard_when_closed()
for _ in range(3):
    print("x" * 200_000, flush=True)
print("error", file=sys.stderr)
sys.exit(subprocess.run(["seq", "100000"]).returncode + 7)
'"""


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (LONG, 7),
        (f"{HARNESS} faults", 0),
        (f"{HARNESS} --help", 0),
        (f"{HARNESS} test --fixtures", 0),
        (f"{HARNESS} device --list-faults", 0),
        (f"{HARNESS} shell --nothing", 2),
    ],
)
@pytest.mark.parametrize("joined", ["", "2>&1"], ids=["stdout", "both"])
def test_the_status_is_that_of_the_command(command: str, status: int, joined: str) -> None:
    # The reader leaves before the first byte.
    script = f"{command} {joined} | exec 0<&-; exit ${{PIPESTATUS[0]}}"
    done = run_within([], ["bash", "-c", script])
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_what_is_read_is_whole() -> None:
    plain = run_within([], f"{HARNESS} faults".split())
    assert plain.returncode == 0
    assert plain.stdout.endswith("\nstatus 0\n")
