# SPDX-License-Identifier: Apache-2.0
"""The verdict of a run, printed again from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import show
from dma_rehearsal.host_harness.cli.command_line import main
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.process.screen import Screen
from dma_rehearsal.host_harness.verdict.known_gaps import KnownGaps
from dma_rehearsal.host_harness.verdict.ledger import AFTER, Ledger
from dma_rehearsal.host_harness.verdict.promise import Promise

RED, SOUND, PLAIN = (f"suite/test_x.py::test_{name}" for name in ("red", "sound", "plain"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(known_gaps=KnownGaps(), passed=1, failed=2, notes=["a note"])
    ledger.promises = [
        Promise("direction", "out", "read", "kept", "", SOUND),
        Promise("alignment", "64 bytes", "low bits 4", "broken", "not aligned", RED),
        Promise("alignment", "64 bytes", "", "broken", "known", SOUND, xfail="known"),
        Promise("cache reports", "", "", "broken", "RELEASED_DIRTY", AFTER),
    ]
    ledger.write(tmp_path / "attestations.json", {})
    outcomes = {RED: "failed", SOUND: "passed", PLAIN: "failed"}
    verdicts = {name: {"outcome": each, "promises": {}} for name, each in outcomes.items()}
    (tmp_path / "verdicts.json").write_text(json.dumps(verdicts))
    return tmp_path


def test_table_and_failures_as_the_run_had_them(folder: Path) -> None:
    found = "\n".join(show.lines(folder, Screen(120)))
    assert "kept" in found
    assert "note: a note" in found
    assert f"FAILED {RED}\n  why: broken: alignment: not aligned\n" in found
    assert f"FAILED {AFTER}\n  why: broken: cache reports: RELEASED_DIRTY\n" in found
    assert f"FAILED {PLAIN}\n  why: see junit.xml\n" in found
    assert f"FAILED {SOUND}" not in found
    assert f"1 passed, 2 failed\nartefacts: {folder}\nreplay: sh {folder}/replay" in found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"promises": [{}]}', '{"promises": 3}'])
def test_folder_without_a_verdict(folder: Path, text: str) -> None:
    (folder / "attestations.json").write_text(text)
    with pytest.raises(UsageError, match=r"attestations.json cannot be read"):
        show.lines(folder, Screen())


def test_escapes_in_a_file_do_not_reach_the_terminal(folder: Path) -> None:
    path = folder / "attestations.json"
    path.write_text(path.read_text().replace("not aligned", "\\u001b[2Jgone"))
    assert "\x1b" not in "\n".join(show.lines(folder, Screen(120)))


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder)]).status is Status.PASSED
    assert "alignment" in capsys.readouterr().out
    assert main(["show", str(folder / "absent")]).status is Status.USAGE
    assert "next: name the folder of a run" in capsys.readouterr().err
