# SPDX-License-Identifier: Apache-2.0
"""dma-rehearsal explain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import command_line, explain
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import RING, at, driver_map, driver_unmap
from tests.unit.host_harness.traces import request


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two tests."""
    folder = tmp_path / "runs" / "latest"
    refused = request(2, reason="PROTECTION_OUTSIDE", byte=0x1000)
    events = [
        at(1, driver_map(), test=RING),
        at(1.5, request(1, moved=64), test=RING),
        at(2, driver_unmap(), test=RING),
        at(2.5, refused, test=RING),
        at(3, request(3, (0x9000, 8), moved=8), test=f"{RING}_again"),
    ]
    runs.write_trace(folder, events)
    verdicts = {RING: {"outcome": "failed", "promises": {}}}
    (folder / "verdicts.json").write_text(json.dumps(verdicts))
    return folder


def test_the_story_of_a_test(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.run(run, RING) is Status.PASSED
    first, *told = capsys.readouterr().out.splitlines()
    assert first == f"{RING}: failed, VM 1, 1500.0 ms"
    assert sum("DMA " in each for each in told) == 2
    assert "REFUSED: PROTECTION_OUTSIDE at 0x1000" in "\n".join(told)


def test_an_overview(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain.run(run, None)
    said = capsys.readouterr().out
    assert "2 tests, 1 buffers, 3 DMAs, 0 interrupts" in said
    assert f"failed   {RING}\n" in said
    assert "1 DMAs were refused, the last at 0x1000" in said


@pytest.mark.parametrize("what", ["0x1000", "0x1030+64", "4096+1", "#1", "buffer:1"])
def test_an_address_and_a_buffer(run: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    explain.run(run, what)
    said = capsys.readouterr().out
    assert "buffer 1: mapping by dma_map_single/page IN, 64 bytes at 0x1000" in said
    assert f"{RING} (VM 1):" in said
    assert "0x9000" not in said


def test_memory_that_nothing_held(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain.run(run, "0x77000")
    assert capsys.readouterr().out == "1 bytes at 0x77000: no buffers held them\n"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("test_ring", "2 tests have 'test_ring' in their name"),
        ("nobody", "'nobody' is not a test of this run, an address or a buffer"),
        ("#9", "no buffer 9: there are 1"),
        ("0xffffffffffffffff+2", "not bytes of the 64-bit address space"),
        ("0x1000+0", "not bytes of the 64-bit address space"),
    ],
)
def test_what_is_not_in_the_run(run: Path, what: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        explain.run(run, what)


def test_a_folder_without_a_timeline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is not the folder of a run"):
        explain.run(tmp_path, None)


def test_a_long_story_is_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "_LINES_MAX", 5)
    sizes = range(1, 20)
    runs.write_trace(tmp_path, [at(n, request(n, (0x1000, n), moved=n), test=RING) for n in sizes])
    explain.run(tmp_path, RING)
    assert capsys.readouterr().out.splitlines()[5:] == ["(17 more lines: --all prints them)"]
    explain.run(tmp_path, RING, whole=True)
    assert len(capsys.readouterr().out.splitlines()) == 22


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_folder = str(run.parent)
    ending = command_line.main(["explain", "--runs", runs_folder, "latest", "#1"])
    assert (ending.status, str(ending)) == (Status.PASSED, "status 0")
    assert "buffer 1" in capsys.readouterr().out
    assert command_line.main(["explain", str(run / "no"), "#1"]).status is Status.USAGE
