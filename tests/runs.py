# SPDX-License-Identifier: Apache-2.0
"""Runs of the harness as a user would start them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.options.run_options import OPTIONS
from dma_rehearsal.host_harness.process import children
from tests import documents

LIMIT_S = 900  # the first run of a machine makes the environment
# The files that each VM of a run leaves, the first in the run's folder.
OF_A_VM = {
    *("console.log", "qemu.log", "qmp.log", "argv", "device-trace.jsonl", "device.log"),
}
# A run that started a guest says how: cold, or from which saved state.
_LAST_LINE = re.compile(r"status (\d)(?: \((.+)\))?")
_COMPLAINTS = ("broken: ", "unattested: ", "unsupported: ", "no verdict: ", "error: ")
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

    @property
    def start(self) -> str:
        """Return how the guest started: "cold", "booted", "collected"; "" when none started."""
        written = (self.folder / "attestations.json").exists()
        return str(self.attestations["start"]) if written else ""

    @property
    def complaints(self) -> list[str]:
        """Return the lines of the verdict that say what is wrong."""
        said = [*self.output.splitlines(), *self.errors.splitlines()]
        return [line for line in said if line.startswith(_COMPLAINTS)]


def run(runs: Path, *arguments: str, **settings: str) -> Run:
    """Run the harness as a user would, with ``settings`` in the environment."""
    return run_in(SOURCE, runs, *arguments, **settings)


def run_in(project: Path, runs: Path, *arguments: str, **settings: str) -> Run:
    """Run the harness in a project of one's own, as `run` does in the checkout."""
    command = [sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--runs", str(runs)]
    done = call([*command, *arguments], project, **settings, PYTHONPATH=str(SOURCE))
    return Run(done.returncode, done.stdout, done.stderr, runs / "latest")


def run_order(folder: Path, *arguments: str, **settings: str) -> CompletedProcess[str]:
    """Compare the verdicts of the tests in ``folder`` in two orders, with a fixed seed."""
    command = [sys.executable, "-m", "dma_rehearsal.host_harness", "order", *arguments]
    return call(command, folder, PYTHONPATH=str(SOURCE), SEED="7", **settings)


def call(argv: Sequence[str | Path], folder: Path, **settings: str) -> CompletedProcess[str]:
    """Run a command with these options of a run, and print what it says.

    It dies with this process, which may be a worker of pytest-xdist.
    """
    done = children.run(
        list(map(str, argv)),
        cwd=folder,
        environment=clean_environment(**settings),
        timeout_s=LIMIT_S,
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


def last_line(output: str) -> tuple[int, str]:
    """Return the status that the last line of a run's output names, and how its guest started.

    The second is "" for a run that started no guest.
    """
    last = output.splitlines()[-1]
    found = _LAST_LINE.fullmatch(last)
    assert found, f"the last line is not a status: {last!r}"
    return int(found[1]), found[2] or ""


def check(done: Run, status: int) -> None:
    """Check that a run says its status in each of the three places, and its documents' forms."""
    assert done.status == status == last_line(done.output)[0]
    assert (done.folder / "status").read_text() == f"{status}\n"
    assert documents.errors_of(done.folder) == []


def runs_after_a_pass(folder: Path) -> Path:
    """Return a folder of runs whose last one passed: the next must not be taken for it."""
    old = folder / "runs" / "20200101-000000-1"
    old.mkdir(parents=True)
    (old / "status").write_text("0\n")
    (old.parent / "latest").symlink_to(old.name)
    return old.parent


def clean_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without options of a run, but with ``settings``."""
    kept = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    return kept | settings
