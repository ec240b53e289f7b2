# SPDX-License-Identifier: Apache-2.0
"""Run the tests stage by stage, and say at the end how each stage ended.

    python -m tests.stages test [--jobs N] [PYTEST OPTION ...]        the gate: `make test`
    python -m tests.stages test-all [--jobs N] [PYTEST OPTION ...]    everything: `make test-all`
    python -m tests.stages test-matrix [--jobs N] [PYTEST OPTION ...] alone: `make test-matrix`

The gate stops at the first stage that fails. ``test-all`` goes on, so that one run tells all.
pytest's options go to each stage that is one run of pytest; a stage in which they select no test
passes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.host_harness.machine import guest_memory
from tests.matrix.cells import CELL_SIZE

ROOT = Path(__file__).parents[1]
_NO_TEST_SELECTED = 5  # pytest.ExitCode.NO_TESTS_COLLECTED
_INTERRUPTED = 130
_OF_MAKE = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")


@dataclass(frozen=True, slots=True)
class Stage:
    """One command. ``marks`` selects the tests of a run of pytest, and is empty for any other
    command.

    ``workers`` runs the tests in several processes; ``vms`` allows no more of them than the
    memory has room for VMs. ``by_file`` gives the tests of a file, which may share a VM, to one of
    them.
    """

    name: str
    title: str
    command: tuple[str, ...] = ()
    marks: str = ""
    workers: bool = False
    vms: bool = False
    by_file: bool = False
    full: bool = False

    def argv(self, jobs: Callable[[bool], int], options: Sequence[str]) -> list[str]:
        """Return the command line."""
        if not self.marks:
            return list(self.command)
        argv = [sys.executable, "-m", "pytest", "-q", "-m", self.marks]
        if self.workers:
            how = "loadfile" if self.by_file else "worksteal"
            argv += ["-n", str(jobs(self.vms)), "--dist", how]
        if self.full:
            argv += ["--hypothesis-profile", "full"]
        return [*argv, *options]


_LINT = Stage("lint", "format, lint, types, layers", ("make", "--no-print-directory", "lint"))
_MATRIX = Stage(
    "matrix",
    "every profile, coherent and not, behind an IOMMU and not",
    marks="matrix",
    workers=True,
    vms=True,
)
GATE = (
    _LINT,
    Stage(
        "units",
        "units, and the guest's suite in this process",
        marks="not vm and not matrix and not alone and not full",
        workers=True,
    ),
    Stage("alone", "tests that measure time, one at a time", marks="alone and not full"),
    Stage(
        "vms",
        "whole VMs: one for each kind",
        marks="vm and not alone and not full",
        workers=True,
        vms=True,
        by_file=True,
    ),
)
ALL = (
    _LINT,
    Stage(
        "units",
        "units, and the guest's suite in this process, with all generated examples",
        marks="not vm and not matrix and not alone",
        workers=True,
        full=True,
    ),
    Stage("alone", "tests that measure time, one at a time", marks="alone"),
    Stage(
        "vms",
        "whole VMs",
        marks="vm and not matrix and not alone",
        workers=True,
        vms=True,
        by_file=True,
    ),
    _MATRIX,
    Stage(
        "order", "the guest's suite in a shuffled order, and tests alone", ("make", "test-order")
    ),
    Stage(
        "kernels",
        "other kernels: the modules build without a warning, and the guest's tests pass",
        (sys.executable, "-m", "tests.kernels"),
    ),
    Stage("fuzz", "hostile messages, a minute for each target", ("make", "fuzz", "SECONDS=60")),
    Stage("flood", "a minute of messages without a pause", ("make", "flood", "SECONDS=60")),
    Stage("docs", "the documentation's pages, links and examples", ("make", "docs")),
)
RUNS = {"test": GATE, "test-all": ALL, "test-matrix": (_MATRIX,)}


def workers(vms: bool) -> int:
    """Return how many processes run tests at a time: one for each CPU that has room for its VM."""
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus, guest_memory.available() // CELL_SIZE)) if vms else cpus


def words(seconds: float) -> str:
    """Return a duration as a person says it: "45 s", "3 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@dataclass(frozen=True, slots=True)
class Ended:
    """A stage that has ended. ``status`` is that of its command."""

    stage: Stage
    status: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether it passed; options that select no test of a stage do not fail it."""
        return self.status in (0, _NO_TEST_SELECTED) if self.stage.marks else self.status == 0

    def line(self, width: int) -> str:
        """Return its line in the summary."""
        if self.passed:
            end = "passed" if self.status == 0 else "no test selected"
        else:
            end = f"FAILED with status {self.status}"
        return f"  {self.stage.name:{width}}  {words(self.seconds):>12}  {end}"


Runner = Callable[[Sequence[str]], int]


def run(command: Sequence[str]) -> int:
    """Run one stage's command at the root of the checkout; return its status."""
    # A stage of make is a run of its own: the options of this one are for pytest.
    kept = {name: value for name, value in os.environ.items() if name not in _OF_MAKE}
    return subprocess.run(command, cwd=ROOT, env=kept, check=False).returncode


def run_stages(
    name: str,
    stages: Sequence[Stage],
    *,
    options: Sequence[str] = (),
    jobs: Callable[[bool], int] = workers,
    go_on: bool = False,
    runner: Runner = run,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run the stages in a row, and print a summary.

    Return 0 when all passed, 5 (as pytest) when none ran anything, otherwise 1.
    """
    ended: list[Ended] = []
    for number, stage in enumerate(stages, 1):
        print(f"\n[{number}/{len(stages)}] {stage.name}: {stage.title}", flush=True)
        start = clock()
        status = runner(stage.argv(jobs, options))
        ended.append(Ended(stage, status, clock() - start))
        if not ended[-1].passed and not go_on:
            break
    print("\n".join(summary(name, stages, ended)), flush=True)
    if _selected_nothing(ended):
        return _NO_TEST_SELECTED
    return 0 if all(each.passed for each in ended) else 1


def _selected_nothing(ended: Sequence[Ended]) -> bool:
    return all(each.stage.marks and each.status == _NO_TEST_SELECTED for each in ended)


def summary(name: str, stages: Sequence[Stage], ended: Sequence[Ended]) -> list[str]:
    """Return the last lines: each stage with its time, and in one line how the run ended."""
    width = max(len(each.name) for each in stages)
    lines = ["", *(each.line(width) for each in ended)]
    lines += [f"  {each.name:{width}}  {'':12}  not run" for each in stages[len(ended) :]]
    total = words(sum(each.seconds for each in ended))
    failed = [each.stage.name for each in ended if not each.passed]
    if _selected_nothing(ended):
        return [*lines, f"make {name}: no test selected"]
    if not failed:
        those = f"all {len(stages)} stages" if len(stages) > 1 else f"the stage {stages[0].name}"
        return [*lines, f"make {name}: {those} passed in {total}"]
    those = f"the stage {failed[0]}" if len(failed) == 1 else f"the stages {', '.join(failed)}"
    return [*lines, f"make {name}: {those} failed, after {total}"]


def main(arguments: Sequence[str]) -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.stages", description=__doc__)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--jobs", type=int, help="processes that run tests at a time")
    parsed, options = parser.parse_known_args(arguments)

    def jobs(vms: bool) -> int:
        return parsed.jobs or workers(vms)

    try:
        return run_stages(
            parsed.run, RUNS[parsed.run], options=options, jobs=jobs, go_on=parsed.run == "test-all"
        )
    except KeyboardInterrupt:
        print(f"make {parsed.run}: interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
