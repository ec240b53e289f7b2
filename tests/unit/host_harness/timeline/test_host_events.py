# SPDX-License-Identifier: Apache-2.0
"""The host's own events, and the times of the console's lines."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.machine import console_times
from dma_rehearsal.host_harness.machine.console_times import ConsoleTimes
from dma_rehearsal.host_harness.timeline import host_events
from dma_rehearsal.host_harness.timeline.events import ConsoleLine, TestBegins, TestEnds
from dma_rehearsal.host_harness.timeline.host_events import HostEvents


def test_what_the_host_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / host_events.FILE
    written = HostEvents(path)
    before = time.monotonic_ns()
    written.begin("suite/test_a.py::test_b")
    written.end("suite/test_a.py::test_b", time.monotonic(), "failed", ["no \x1b[1mDMA"] * 9)
    after = time.monotonic_ns()
    written.close()
    begin, end = host_events.read(path, 2)
    assert (begin.kind, begin.vm, begin.test) == (TestBegins, 2, "suite/test_a.py::test_b")
    assert (end.kind, end.fields["outcome"]) == (TestEnds, "failed")
    assert end.fields["objections"] == ("no DMA",) * 4
    assert before - 1000 <= begin.time_ns <= end.time_ns <= after + 1000


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    written = HostEvents(tmp_path / "missing" / host_events.FILE)
    written.begin("a")
    written.close()
    assert list(host_events.read(tmp_path / "missing" / host_events.FILE, 1)) == []


def test_lines_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / host_events.FILE
    path.write_text(
        "x\n[]\n{}\n"
        '{"time": 1e999, "event": "begin", "test": "a"}\n'
        '{"time": -1, "event": "begin", "test": "a"}\n'
        '{"time": 1, "event": "other", "test": "a"}\n'
        '{"time": 1, "event": "begin", "test": "a"}\n'
    )
    assert [each.kind for each in host_events.read(path, 1)] == [TestBegins]


def test_a_console_line_has_the_time_of_its_end(tmp_path: Path) -> None:
    log, times = tmp_path / "console.log", tmp_path / console_times.FILE
    log.write_bytes(b"first li" + b"ne\r\n\x1b[1msecond\nthird\nunfinished")
    pack = struct.Struct("<QQ").pack
    times.write_bytes(pack(100, 8) + pack(200, 26) + pack(300, 99) + b"cut")
    found = list(host_events.read_console(log, times, 1))
    assert all(each.kind is ConsoleLine for each in found)
    assert [(each.time_ns, each.fields["text"]) for each in found] == [
        (200, "first line"),
        (200, "second"),
        (300, "third"),
    ]
    assert list(host_events.read_console(log, tmp_path / "missing", 1)) == []


def test_the_consoles_times_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_times, "RECORDS_MAX", 2)
    written = ConsoleTimes(tmp_path / console_times.FILE)
    for count in (5, 1, 7):
        written.tell(count)
    written.close()
    assert [size for _, size in console_times.read(tmp_path / console_times.FILE)] == [5, 6]
