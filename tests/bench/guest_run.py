# SPDX-License-Identifier: Apache-2.0
"""A run of the harness whose attestations are a benchmark's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def attestations(tests: str, **settings: str) -> dict[str, Any]:
    """Run the guest tests of a folder; return what attestations.json says.

    ``settings`` are variables of the environment. RuntimeError when the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--tests", tests),
            *("--runs", folder),
        ]
        environment = {**os.environ, **settings}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if run.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: status {run.returncode}\n{run.stdout[-2000:]}"
            )
        found: dict[str, Any] = json.loads(Path(folder, "latest", "attestations.json").read_text())
    return found
