# SPDX-License-Identifier: Apache-2.0
"""One run of a watch, in the process that was forked for it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from dma_rehearsal.host_harness.cli import own_pytest
from dma_rehearsal.host_harness.cli.watch_selection import Outcome
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.options.run_options import AUTO, BOOTED, OPTIONS, Options
from dma_rehearsal.host_harness.process.errors import HarnessError, Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.verdict_record import Recorder


@dataclass(frozen=True, slots=True)
class Command:
    """A watch's command line: tests, the folder of runs, pytest's ``words``; and one seed.

    All runs have the same seed, so that another result comes from the edit.
    """

    tests: GuestTests
    runs: Path
    words: Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that the watch wants: what it collects (nothing: everything in scope), and why.

    ``edited``: what the guest has was changed, and is likely to change again. ``first``: it may
    have to make the environment, so it shows its progress.
    """

    why: str
    only: tuple[str, ...] = ()
    edited: bool = False
    first: bool = False


def work(command: Command, asked: Asked, pipe: IO[bytes]) -> int:
    """Run, print what people read, and write the outcome to ``pipe``; return the status."""
    try:
        outcome = _outcome(command, asked)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        outcome = Outcome(error.status)
    except KeyboardInterrupt:  # the watch ended it
        return Status.NO_VERDICT
    pipe.write(json.dumps(dataclasses.asdict(outcome)).encode())
    return outcome.status


def options(seed: int, *, edited: bool = False) -> Options:
    """Return the options of a run: the user's, with the watch's seed.

    After an edit of the guest's files no state with collected tests is saved: the next edit would
    make it useless. UsageError as of `run_options.parse`.
    """
    given = run_options.parse({each.name: os.environ.get(each.variable, "") for each in OPTIONS})
    given = replace(given, seed=seed)
    return replace(given, state=BOOTED) if edited and given.state == AUTO else given


def _outcome(command: Command, asked: Asked) -> Outcome:
    given = options(command.seed, edited=asked.edited)
    tests = replace(command.tests, only=asked.only)
    tests.files()  # UsageError when a folder of tests is gone
    words = list(command.words)
    if not any(word.startswith(("-v", "-q", "--verbose", "--quiet")) for word in words):
        words.append("-q")
    noted = _Noted()
    with Run(given, Progress(quiet=not asked.first), command.runs, tests=tests) as run:
        recorder = Recorder(run)
        code = own_pytest.run_to_status(run, command.runs, words, recorder, noted)
        _say(run)
    # pytest says that a collection without a result is finished, too.
    selected = noted.selected or (None if run.error else noted.selected)
    return Outcome(
        status=run.status if run.status is not None else Status.NO_VERDICT,
        scope=run.tests.selected,
        selected=tuple(selected) if selected is not None else None,
        left_out=noted.left_out,
        refused=code == pytest.ExitCode.USAGE_ERROR and run.error is None,
        ran=tuple(recorder.verdicts(selected or ())),
        failed=tuple(run.ledger.to_repeat()),
        counted=run.ledger.counted,
        how=run.start.kind.words if run.start else "",
        folder=str(run.folder or ""),
    )


def _say(run: Run) -> None:
    """Print what a failed run's verdict has beside pytest's own words; no table."""
    lines = run.ledger.complaints()
    if run.error:
        lines.append(
            f"{'no verdict' if run.error.status == Status.NO_VERDICT else 'error'}: {run.error}"
        )
    if lines:
        print("\n".join(["", *lines]), flush=True)


class _Noted:
    """A plugin of pytest that notes the selected tests, and how many were left out."""

    def __init__(self) -> None:
        self.selected: list[str] | None = None
        self.left_out = 0

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count the tests that options leave out."""
        self.left_out += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests that are left."""
        self.selected = [item.nodeid for item in session.items]
