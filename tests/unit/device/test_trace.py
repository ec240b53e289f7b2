# SPDX-License-Identifier: Apache-2.0
"""The trace: JSON lines, and an end to them."""

from __future__ import annotations

import json
from pathlib import Path

from dma_rehearsal.device.trace import Trace


def test_lines(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    trace.event("exerciser", "dma", length=4)
    trace.close()
    (line,) = (tmp_path / "trace").read_text().splitlines()
    event = json.loads(line)
    assert (event["device"], event["event"], event["length"]) == ("exerciser", "dma", 4)


def test_a_guest_cannot_fill_the_disk(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace", limit=2000)
    for _ in range(1000):
        trace.event("exerciser", "msi-x", vector=1)
    trace.close()
    lines = (tmp_path / "trace").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "trace is full"
    assert (tmp_path / "trace").stat().st_size < 2200


def test_what_comes_after_the_end_goes_nowhere(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    trace.close()
    trace.event("exerciser", "dma")
    trace.close()
    assert (tmp_path / "trace").read_text() == ""
