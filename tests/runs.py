# SPDX-License-Identifier: Apache-2.0
"""Runs of the harness as a user would start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.options.run_options import OPTIONS

LIMIT_S = 900  # the first run of a machine makes the environment
# What each VM of a run leaves, the first in the run's folder.
OF_A_VM = {
    *("console.log", "qemu.log", "qmp.log", "argv", "device-trace.jsonl", "device.log"),
}
_VARIABLES = {option.variable for option in OPTIONS}


@dataclass(frozen=True)
class Run:
    """A finished run: what it printed and the folder of its artefacts."""

    status: int
    output: str
    errors: str
    folder: Path

    @property
    def attestations(self) -> dict[str, Any]:
        """Return what attestations.json says."""
        loaded: dict[str, Any] = json.loads((self.folder / "attestations.json").read_text())
        return loaded


def run(runs: Path, *arguments: str, **settings: str) -> Run:
    """Run the harness as a user would, with ``settings`` in the environment."""
    return run_in(SOURCE, runs, *arguments, **settings)


def run_in(project: Path, runs: Path, *arguments: str, **settings: str) -> Run:
    """Run the harness in a project of one's own, as `run` does in the checkout."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dma_rehearsal.host_harness",
            "test",
            "--runs",
            str(runs),
            *arguments,
        ],
        cwd=project,
        env=clean_environment(**settings) | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    return Run(done.returncode, done.stdout, done.stderr, runs / "latest")


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without options of a run, but with ``settings``."""
    kept = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    return kept | settings
