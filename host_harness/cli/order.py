# SPDX-License-Identifier: Apache-2.0
"""Checks that a test's verdict depends on no other test: in any order, and alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dma_rehearsal.host_harness.cli import own_pytest
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.machine.vm import Vm
from dma_rehearsal.host_harness.options.run_options import Options
from dma_rehearsal.host_harness.process import advice
from dma_rehearsal.host_harness.process.children import child
from dma_rehearsal.host_harness.process.errors import (
    EnvironmentFailure,
    NoVerdict,
    Status,
    UsageError,
)
from dma_rehearsal.host_harness.process.plain_text import tail
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import schedule, verdict_record
from dma_rehearsal.host_harness.session.agent_client import Request
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.verdict_record import Recorder, Verdict, Verdicts

COLLECTED, SHUFFLED, ALONE = "collected", "shuffled", "alone"


def run(
    given: Options, tests: GuestTests, sample: int, runs: Path, arguments: Sequence[str]
) -> Status:
    """Run the tests in collected order, in an order that the seed draws, and ``sample`` of them
    each in a session of its own; print the tests whose verdicts differ.

    ``arguments`` select tests, as pytest's. PASSED when all agree and all tests passed, else
    FAILED. HarnessError when one of the runs has no verdict.
    """
    if "order" in given.given or given.keep or given.gdb:
        raise UsageError("ORDER, KEEP and GDB are for one run", "leave them out")
    progress = Progress()
    folder = runs.absolute() / "order"
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Verdicts] = {}
    statuses = []
    for order in (COLLECTED, SHUFFLED):
        status, found[order] = _whole(order, given, tests, folder / order, arguments, progress)
        statuses.append(status)
    drawn = schedule.sample(sorted(found[COLLECTED]), sample, given.seed)
    found[ALONE] = _alone(drawn, given, tests, folder / ALONE, progress)
    unlike = verdict_record.differences(found, {ALONE: drawn})
    if unlike:
        print(verdict_record.difference_table(unlike, found), end="\n\n")
    count = len({each.test for each in unlike})
    print(
        f"{len(found[COLLECTED])} tests in two orders and {len(drawn)} of them alone: "
        + (f"{count} do not have the same verdict" if unlike else "the same verdicts")
    )
    for order, status in zip((COLLECTED, SHUFFLED), statuses, strict=True):
        if status is not Status.PASSED:
            print(f"the run in {order} order itself did not pass: see {folder / order / 'output'}")
    print(f"again: {advice.order(given.seed, sample)}", flush=True)
    good = not unlike and set(statuses) == {Status.PASSED}
    return Status.PASSED if good else Status.FAILED


def _whole(
    order: str,
    given: Options,
    tests: GuestTests,
    folder: Path,
    arguments: Sequence[str],
    progress: Progress,
) -> tuple[Status, dict[str, Verdict]]:
    """Run all tests in a child, whose output goes into ``folder``."""
    folder.mkdir(parents=True)
    output = folder / "output"
    progress.note(f"{order} order; what the run prints goes into {output}")
    argv = [sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--runs", str(folder)]
    if not tests.is_own:
        argv += ["--tests", *tests.selected]
    environment = {**os.environ, "SEED": str(given.seed), "ORDER": order}
    with (
        output.open("wb") as said,
        child(
            [*argv, *arguments], stdout=said, stderr=subprocess.STDOUT, environment=environment
        ) as process,
    ):
        status = process.wait()
    if status == Status.USAGE:
        words = "\n".join(f"  | {line}" for line in tail(output, 8))
        raise UsageError(f"the run in {order} order:\n{words}", f"look into {output}")
    if status not in (Status.PASSED, Status.FAILED):
        words = "\n".join(f"  | {line}" for line in tail(output))
        message = f"the run in {order} order ended with {status}:\n{words}"
        if status == Status.ENVIRONMENT:
            raise EnvironmentFailure(message, f"{advice.command('doctor')} says what is missing")
        raise NoVerdict("order", message, f"look into {folder}")
    return Status(status), verdict_record.read(folder / "latest")


class _Session(Run):
    """One more session in the VM of another run, which stays."""

    def __init__(self, booted: Run, tests: GuestTests, runs: Path) -> None:
        options = replace(booted.options, keep=True, vms=None)
        super().__init__(options, Progress(quiet=True), runs, tests=tests)
        self._lender = booted

    def boot(
        self,
        count: int = 1,  # noqa: ARG002
        *,
        isolated: bool = False,  # noqa: ARG002
        request: Request | None = None,  # noqa: ARG002
    ) -> Vm:
        """Return the VM, which runs; its session before this one has ended."""
        self.accelerator = self._lender.accelerator
        self.start = self._lender.start
        self.guests = self._lender.guests
        self.vms = list(self._lender.vms)
        return self.vms[0]


def _alone(
    drawn: Sequence[str], given: Options, tests: GuestTests, folder: Path, progress: Progress
) -> dict[str, Verdict]:
    """Run each of these tests in a session of its own, all in one VM; return the verdicts."""
    found: dict[str, Verdict] = {}
    with Run(given, progress, folder, tests=tests) as run:
        progress.note(f"{len(drawn)} tests, each alone")
        vm = run.boot(isolated=tests.is_own)
        with (vm.folder / "output").open("w") as said:
            for nodeid in drawn:
                session = _Session(run, GuestTests(tests.root, (nodeid,)), folder)
                recorder = Recorder(session)
                with contextlib.redirect_stdout(said):
                    own_pytest.run(session, [], recorder)
                if session.error:
                    raise session.error
                found |= recorder.verdicts([nodeid])
        vm.power_off()
        run.conclude(Status.PASSED, tests=False)
    return found
