# SPDX-License-Identifier: Apache-2.0
"""dma-rehearsal timeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import command_line, timeline_files
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import RING, at
from tests.unit.host_harness.traces import request


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two tests."""
    folder = tmp_path / "runs" / "latest"
    events = [at(1, request(1), test=RING), at(2, request(2, device="peer"), test="other")]
    runs.write_trace(folder, events)
    return folder


def test_both_files_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, dump = tmp_path / "a.pftrace", tmp_path / "a.vcd"
    words = ["timeline", "--runs", str(run.parent), "latest"]
    ending = command_line.main([*words, "--perfetto", str(trace), "--vcd", str(dump)])
    assert ending.status is Status.PASSED
    assert b"peer" in trace.read_bytes()
    assert "peer" in dump.read_text()
    assert "ui.perfetto.dev" in capsys.readouterr().out


def test_the_files_of_one_test(run: Path, tmp_path: Path) -> None:
    trace, dump = tmp_path / "a.pftrace", tmp_path / "a.vcd"
    timeline_files.write(run, test="test_ring", perfetto=trace, vcd=dump)
    assert b"peer" not in trace.read_bytes()
    assert "exerciser" in dump.read_text()
    assert "peer" not in dump.read_text()


def test_what_cannot_be_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file is asked for"):
        timeline_files.write(run)
    with pytest.raises(UsageError, match=r"missing/a\.vcd cannot be written: No such file"):
        timeline_files.write(run, vcd=tmp_path / "missing" / "a.vcd")
    with pytest.raises(UsageError, match="not the folder of a run"):
        timeline_files.write(tmp_path, vcd=tmp_path / "a.vcd")
