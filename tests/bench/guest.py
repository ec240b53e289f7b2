# SPDX-License-Identifier: Apache-2.0
"""The guest's view, in a VM: a run of the harness whose attestations are the figures.

The device is the exerciser, which by a register becomes an echo loop on the same socket: register
accesses are measured by turns with and without it (goal 1.2).

A read costs what its echo does (0.94 to 1.01 times): the server spares itself a wake-up by looking
for the next message before it sleeps, which outweighs the 5 us of Python; the echo loop sleeps at
once. A server that did so as well took 1.22 to 1.31 times as long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.registry import Row, at_most, benchmark

NAME = "in_guest"
TESTS = "tests/bench/guest_tests"  # from the checkout's root, as the harness wants it
ENDPOINT = "tests.bench.echo:Echo"


@benchmark("what a guest waits for; the wake-ups of QEMU and of its vCPU are the most of it")
def in_guest() -> Iterator[Row]:
    """Boot a VM and measure there. RuntimeError when the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--tests", TESTS),
            *("--runs", folder),
        ]
        environment = {**os.environ, "ENDPOINT": ENDPOINT}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if run.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: status {run.returncode}\n{run.stdout[-2000:]}"
            )
        found = json.loads(Path(folder, "latest", "attestations.json").read_text())
    for row in found["promises"]:
        facts = row["facts"]
        measured = facts.get("measured", f"accelerator {found['accelerator']}")
        goal = at_most(float(facts["at most"])) if "at most" in facts else None
        yield Row(row["promise"], measured, float(row["attested"]), goal, row["asked"])
