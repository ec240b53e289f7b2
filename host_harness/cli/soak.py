# SPDX-License-Identifier: Apache-2.0
"""Many runs in a row, on a loaded machine if wanted, to find runs that fail now and then."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.children import child
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.process.progress import Progress

_BUSY = "while True: pass"
# The tests that repeat do much more with this parameter (guest/testkit/repeat_count.py).
_LONG_TESTS = "suite/test_random_operations.py"
_LONG = {"APPEND": "rehearsal.soak=1", "DEADLINE": "test=7200"}


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run: its status, its seconds and, where it was kept, its folder."""

    status: int
    seconds: float
    folder: Path | None

    def __str__(self) -> str:
        where = f", {self.folder}" if self.folder else ""
        return f"status {self.status}, {self.seconds:.1f} s{where}"


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

    Each run boots: runs from one saved state would all have one layout of the kernel's memory.

    Before them the tests that repeat run once at length: 5,000 random operations on buffers,
    200,000 buffers, 20,000 mappings.
    """
    progress = Progress()
    results: list[RunResult] = []
    long = _once(progress, runs / "soak-long", [_LONG_TESTS], _LONG)
    progress.note(f"long run: {long}")
    with loaded(load):
        for number in range(1, count + 1):
            result = _once(progress, runs / f"soak-{number}", arguments)
            results.append(result)
            progress.note(f"run {number} of {count}: {result}")
    passed = [each.seconds for each in results if each.status == Status.PASSED]
    if passed:
        print(
            f"seconds of a run that passed, beside {load} busy processes: "
            f"least {min(passed):.1f}, median {statistics.median(passed):.1f}, "
            f"most {max(passed):.1f}"
        )
    print(f"{len(passed)} passed, {count - len(passed)} failed", flush=True)
    good = len(passed) == count and long.status == Status.PASSED
    return Status.PASSED if good else Status.FAILED


def _once(
    progress: Progress,
    folder: Path,
    arguments: Sequence[str],
    settings: Mapping[str, str] = MappingProxyType({}),
) -> RunResult:
    """Run once in a child, whose output goes into ``folder``; remove that when it passed.

    ``settings`` are added to the environment; an APPEND that is there is kept.
    """
    environment = {**os.environ, **settings, "STATE": run_options.NO}
    if "APPEND" in settings and "APPEND" in os.environ:
        environment["APPEND"] = f"{os.environ['APPEND']} {settings['APPEND']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    progress.note(f"{folder.name} runs; what it prints goes into {folder / 'output'}")
    start = time.monotonic()
    argv = [
        sys.executable,
        "-m",
        "dma_rehearsal.host_harness",
        "test",
        "--runs",
        str(folder),
        *arguments,
    ]
    with (
        (folder / "output").open("wb") as output,
        child(argv, stdout=output, stderr=subprocess.STDOUT, environment=environment) as process,
    ):
        status = process.wait()
    seconds = time.monotonic() - start
    if status != Status.PASSED:
        return RunResult(status, seconds, folder)
    shutil.rmtree(folder)
    return RunResult(status, seconds, None)
