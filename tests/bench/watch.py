# SPDX-License-Identifier: Apache-2.0
"""The wait of a user whose `make watch` runs: from saving a file to the verdict's line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from dma_rehearsal.host_harness.process.children import child
from tests import checkout
from tests.bench.registry import Row, at_most, benchmark
from tests.bench.start import ONE_TEST, ROUNDS, Timed, median, spread
from tests.runs import clean_environment

NAME = "watch"
GOAL_S = 4
EDITS = {
    "a file of tests": "guest/suite/test_direction.py",
    "the allocator": "guest/iobuffer/descriptors/creation.py",
}


class Watched:
    """A watch in a scratch copy of the checkout, which it takes for its own."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._process = process
        self._edits = count(1)

    def edit(self, name: str) -> Timed:
        """Save a file and wait for the verdict. RuntimeError when it is not a pass."""
        path = self._folder / name
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(path.read_bytes() + f"\n# edit {next(self._edits)}\n".encode())
        start = time.monotonic()
        new.rename(path)
        return self.verdict(start)

    def verdict(self, start: float) -> Timed:
        """Wait for the verdict on the run under way; it is timed from ``start`` on."""
        if self._process.stdout is None:
            raise RuntimeError("the watch has no standard output")
        said = []
        for line in self._process.stdout:
            said.append(line.decode())
            if line.startswith(b"status "):
                seconds = time.monotonic() - start
                break
        else:
            raise RuntimeError(f"the watch has ended: {''.join(said)[-2000:]}")
        if not said[-1].startswith("status 0"):
            raise RuntimeError(f"a run did not pass: {''.join(said)[-2000:]}")
        found = json.loads((self._folder / "build/runs/latest/attestations.json").read_text())
        return Timed(seconds, str(found.get("start", "")), found["phases"])


@contextmanager
def watching(folder: Path) -> Iterator[Watched]:
    """Watch one test in a copy of the checkout below ``folder``, for the length of the block."""
    copy = checkout.copy_to(folder / "copy")
    argv = [sys.executable, "-m", "dma_rehearsal.host_harness", "watch", *ONE_TEST]
    with child(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        environment=clean_environment(),
        cwd=copy,
    ) as process:
        yield Watched(copy, process)


@benchmark("from saving a file to the verdict of make watch")
def watch() -> Iterator[Row]:
    """Time the run after an edit of a file of tests, and of the allocator."""
    with tempfile.TemporaryDirectory() as folder, watching(Path(folder)) as watched:
        watched.verdict(time.monotonic())  # of the first run, which may boot cold
        for what, name in EDITS.items():
            watched.edit(name)  # may have to make the saved state
            print(f"  {what}: {ROUNDS} edits", file=sys.stderr, flush=True)
            timed = [watched.edit(name) for _ in range(ROUNDS)]
            yield Row(
                f"after an edit of {what}", spread(timed), median(timed), at_most(GOAL_S), "s"
            )
