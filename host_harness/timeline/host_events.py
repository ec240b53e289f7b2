# SPDX-License-Identifier: Apache-2.0
"""What the host itself did in a VM: when it asked for a test, and when it had the last report.

The host writes it beside the device's trace, in the same clock (CLOCK_MONOTONIC). A test begins
before anything of it reaches the guest, and ends when the guest's word of its end is here. So all
events of a test are between the two; they are as much earlier or later than the test's first and
last step as a message to the guest takes, which is some milliseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from dma_rehearsal.host_harness.machine import console_times
from dma_rehearsal.host_harness.timeline.drafts import NS, Draft, text
from dma_rehearsal.host_harness.timeline.events import (
    GUEST,
    HOST,
    ConsoleLine,
    TestBegins,
    TestEnds,
)

FILE = "host-events.jsonl"
_LINE_MAX = 1 << 16  # bytes
_OBJECTIONS_MAX = 4
_LIMIT = 1 << 24  # bytes of the file
_CONSOLE_MAX = 1 << 24  # bytes of console that are read
_CONSOLE_LINES_MAX = 1 << 16


class HostEvents:
    """Writes the file of one VM. A disk that is full costs the timeline, and not the run."""

    def __init__(self, path: Path) -> None:
        self._room = _LIMIT
        self._file: TextIO | None = None
        try:
            self._file = path.open("w", buffering=1)
        except OSError:
            return

    def begin(self, test: str) -> None:
        """Write that the host asks for a test now."""
        self._write({"time": time.monotonic(), "event": "begin", "test": test})

    def end(self, test: str, at: float, outcome: str, objections: Sequence[str] = ()) -> None:
        """Write that the host had a test's last report at ``at`` (of `time.monotonic`)."""
        facts: dict[str, object] = {"time": at, "event": "end", "test": test, "outcome": outcome}
        if objections:
            facts["objections"] = [each[:1000] for each in objections[:_OBJECTIONS_MAX]]
        self._write(facts)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, facts: dict[str, object]) -> None:
        line = json.dumps(facts)
        self._room -= len(line) + 1
        if self._file is None or self._room < 0:
            return
        try:
            self._file.write(line + "\n")
        except OSError:
            self._file = None


def read(path: Path, vm: int) -> Iterator[Draft]:
    """Yield the begins and ends of tests, in their order; lines of another kind are passed over."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        while line := file.readline(_LINE_MAX):
            try:
                facts = json.loads(line)
                at, test = round(float(facts["time"]) * NS), text(facts["test"])
                if not 0 <= at < 1 << 63:
                    continue
                if facts["event"] == "begin":
                    yield Draft(at, vm, TestBegins, HOST, test, {})
                elif facts["event"] == "end":
                    ended = {
                        "outcome": text(facts["outcome"], 32),
                        "objections": tuple(map(text, facts.get("objections", ()))),
                    }
                    yield Draft(at, vm, TestEnds, HOST, test, ended)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue


def read_console(log: Path, times: Path, vm: int) -> Iterator[Draft]:
    """Yield the console's lines, each at the time when its last byte was here.

    Nothing where the console was not timed.
    """
    try:
        with log.open("rb") as file:
            said = file.read(_CONSOLE_MAX)
    except OSError:
        return
    start, count = 0, 0
    for at, end in console_times.read(times):
        while (found := said.find(b"\n", start, end)) >= 0:
            line = text(said[start:found].decode(errors="replace"))
            start = found + 1
            if line and count < _CONSOLE_LINES_MAX and not at >> 63:
                count += 1
                yield Draft(at, vm, ConsoleLine, GUEST, None, {"text": line})
