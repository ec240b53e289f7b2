# SPDX-License-Identifier: Apache-2.0
"""Whether a mutant dies, in stages from the quickest on: units, the guest's suite, a VM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dma_rehearsal.host_harness.process import children
from dma_rehearsal.host_harness.process.errors import Status
from tests.mutants import tree
from tests.mutants.candidates import Mutant
from tests.mutants.reach import SUITE, Reach

# Of a process's own time, so that other work beside it counts for nothing: a stage may take this
# many times what its tests took, and this much more. Who only waits has longer.
_TIMES, _START_S = 3, 30
_WAITS_TIMES, _WAITS_S = 5, 300
_NO_TESTS = 5  # pytest's status when it found none of those it was to run


class Outcome(StrEnum):
    """The fate of a mutant."""

    KILLED = "killed"
    HANG = "hang"  # killed, too: its tests did not end in time
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A mutant's outcome; the stage that ended it, or the last that it survived; what was said."""

    mutant: Mutant
    outcome: Outcome
    stage: str
    seconds: float
    said: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A command that fails on a mutant which it sees. ``limit_s``: of its process's own time."""

    name: str
    command: list[str]
    limit_s: int

    @property
    def waits_s(self) -> int:
        """Seconds after which it has no end, whatever it waits for."""
        return self.limit_s * _WAITS_TIMES + _WAITS_S


class Judge:
    """Tries mutants in one copy of the tree; ``vm``: in a VM, too, those that are left."""

    def __init__(self, folder: Path, reach: Reach, *, vm: bool = False) -> None:
        self._folder = folder
        self._reach = reach
        self._vm = vm
        # Compiled files are there, and none of a mutant may join them.
        self._environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}

    def judge(self, mutant: Mutant) -> Verdict:
        """Return its verdict. children's OSError when a program cannot be started."""
        start, name, said = time.monotonic(), "units", ""
        outcome = Outcome.SURVIVED
        with tree.mutated(self._folder, mutant.candidate.file, mutant.source):
            for stage in self._stages(mutant):
                name = stage.name
                outcome, said = self._run(stage)
                if outcome is not Outcome.SURVIVED:
                    break
        return Verdict(mutant, outcome, name, time.monotonic() - start, said)

    def _stages(self, mutant: Mutant) -> Iterator[Stage]:
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--no-header",
            "-p",
            "no:cacheprovider",
        ]
        tests = [test for test in self._reach.of(mutant.candidate) if test != SUITE]
        if tests:
            chosen = self._folder / "build" / "chosen"
            chosen.parent.mkdir(exist_ok=True)
            chosen.write_text("\n".join(tests))
            modules = dict.fromkeys(test.partition("::")[0] for test in tests)
            words = ["-p", "tests.mutants.reach_plugin", "--chosen", str(chosen), *modules]
            yield Stage("units", [*pytest, *words], self._limit(tests))
        if SUITE in self._reach.seconds:
            yield Stage("suite", [*pytest, SUITE], self._limit([SUITE]))
        if self._vm:
            # It boots, and saves no state that a mutant has made into the user's cache.
            harness = [
                *("env", "STATE=no", sys.executable),
                *("-m", "dma_rehearsal.host_harness", "test"),
            ]
            yield Stage("VM", harness, self._limit([]))  # which waits for the VM

    def _limit(self, tests: list[str]) -> int:
        return int(_START_S + _TIMES * self._reach.took(tests))

    def _run(self, stage: Stage) -> tuple[Outcome, str]:
        try:
            done = children.run(
                ["prlimit", f"--cpu={stage.limit_s}", *stage.command],
                timeout_s=stage.waits_s,
                cwd=self._folder,
                environment=self._environment,
            )
        except subprocess.TimeoutExpired:
            return Outcome.HANG, f"no end within {stage.waits_s} s"
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome.HANG, f"no end within {stage.limit_s} s of its own time"
        said = done.stdout[-4000:] + done.stderr[-1000:]
        if done.returncode in (0, _NO_TESTS):
            return Outcome.SURVIVED, said
        if stage.name == "VM" and done.returncode in (Status.USAGE, Status.ENVIRONMENT):
            raise RuntimeError(f"the VM suite does not start on a mutant:\n{said}")
        return Outcome.KILLED, said
