"""What the guest sees, in a VM: a run of the harness whose attestations are the figures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.registry import Row, benchmark

NAME = "in_guest"
TESTS = "tests/bench/guest_tests"  # from the checkout's root, as the harness wants it


@benchmark("what a guest waits for; the wake-ups of QEMU and of its vCPU are the most of it")
def in_guest() -> Iterator[Row]:
    """Boot a VM and measure there. RuntimeError when the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "host_harness", "test", "--tests", TESTS),
            *("--runs", folder),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: status {run.returncode}\n{run.stdout[-2000:]}"
            )
        found = json.loads(Path(folder, "latest", "attestations.json").read_text())
    for row in found["promises"]:
        figure = float(row["attested"])
        yield Row(row["promise"], f"accelerator {found['accelerator']}", figure, unit=row["asked"])
