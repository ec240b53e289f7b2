"""Many runs in a row, on a loaded machine if wanted: is there one that fails now and then?"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .children import child
from .errors import Status
from .progress import Progress

_BUSY = "while True: pass"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: its status, its seconds and, where it was kept, its folder."""

    status: int
    seconds: float
    folder: Path | None


@contextmanager
def loaded(processes: int) -> Iterator[None]:
    """Keep this many processes busy for the length of the block."""
    with ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(child([sys.executable, "-I", "-S", "-c", _BUSY]))
        yield


def run(count: int, load: int, runs: Path, arguments: Sequence[str]) -> Status:
    """Run the checks ``count`` times beside ``load`` busy processes; print a line each, and how
    long they took. Only folders of runs that did not pass are kept.
    """
    progress = Progress()
    outcomes: list[Outcome] = []
    with loaded(load):
        for number in range(1, count + 1):
            outcome = _once(runs / f"soak-{number}", arguments)
            outcomes.append(outcome)
            where = f"  {outcome.folder}" if outcome.folder else ""
            progress.note(
                f"run {number} of {count}: status {outcome.status}, {outcome.seconds:.1f} s{where}"
            )
    passed = [each.seconds for each in outcomes if each.status == Status.PASSED]
    if passed:
        print(
            f"seconds of a run that passed, beside {load} busy processes: "
            f"least {min(passed):.1f}, median {statistics.median(passed):.1f}, "
            f"most {max(passed):.1f}"
        )
    print(f"{len(passed)} passed, {count - len(passed)} failed", flush=True)
    return Status.PASSED if len(passed) == count else Status.FAILED


def _once(folder: Path, arguments: Sequence[str]) -> Outcome:
    """Run once in a child, whose output goes into ``folder``; remove that when it passed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.monotonic()
    argv = [sys.executable, "-m", "host_harness", "test", "--runs", str(folder), *arguments]
    with (
        (folder / "output").open("wb") as output,
        child(argv, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        status = process.wait()
    seconds = time.monotonic() - start
    if status != Status.PASSED:
        return Outcome(status, seconds, folder)
    shutil.rmtree(folder)
    return Outcome(status, seconds, None)
