# SPDX-License-Identifier: Apache-2.0
"""The museum's folders, and how its runs are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dma_rehearsal.device.cache_model.reports import ReportKind
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from examples.museum import engine
from examples.museum.__main__ import Outcome, outcome_of
from examples.museum.pieces import FOLDER, Piece, all_pieces

PIECES = all_pieces()
KINDS = {each.name for kinds in (DmaReason, ReportKind, DriverReportKind) for each in kinds}
JUNIT = """<testsuites><testsuite>
<testcase name="test_plain_kernel"/>
<testcase name="test_with_the_rig[buggy]">{failure}</testcase>
<testcase name="test_with_the_rig[mended]"/>
</testsuite></testsuites>"""
PRINTED = """
___________________________ test_with_the_rig[buggy] ___________________________
UNMAP_SIZE by museum_transfer at unmap_size.c:24: a mapping was undone with another size
------------------------------ What the host saw -------------------------------
museum: a write was refused: PROTECTION_OUTSIDE
=========================== short test summary info ============================
FAILED, and it says NEVER_UNMAPPED elsewhere
"""


def test_there_are_at_least_24_reports_of_other_people() -> None:
    assert len({piece.source for piece in PIECES}) >= 24


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_piece_is_complete(piece: Piece) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", piece.source)
    assert piece.mistake.endswith(".")
    assert piece.mend.endswith(".")
    assert set(piece.shows) <= KINDS | {"wrong data"}
    assert piece.shows
    assert piece.plain in ("silent", "fails")
    names = (f"{piece.name}.c", "Kbuild", "device.py", f"test_{piece.name}.py")
    for name in names:
        assert (piece.folder / name).is_file(), name
    assert f"obj-m := {piece.name}.o" in (piece.folder / "Kbuild").read_text()
    source = (piece.folder / f"{piece.name}.c").read_text()
    assert "mended" in source


def test_registers_are_those_of_the_header() -> None:
    header = (FOLDER / "museum.h").read_text()
    defined = dict(re.findall(r"#define MUSEUM_(\w+)\t+(0x[0-9a-f]+)\n", header))
    assert {name: int(value, 16) for name, value in defined.items()} == {
        each.name: each.value for each in engine.Reg
    }


def _run(folder: Path, failure: str) -> Outcome:
    (folder / "junit.xml").write_text(JUNIT.format(failure=failure))
    (folder / "attestations.json").write_text(json.dumps({"promises": []}))
    return outcome_of(folder, PRINTED if failure else "")


def test_right_piece(tmp_path: Path) -> None:
    outcome = _run(tmp_path, '<failure message="read: Input/output error"/>')
    piece = Piece("a", "A", "a/b#1", "m.", "n.", ("UNMAP_SIZE", "PROTECTION_OUTSIDE"))
    assert outcome.wrong(piece) == ""


@pytest.mark.parametrize(
    ("failure", "shows", "words"),
    [
        ("", "UNMAP_SIZE", "the mistake passes"),
        ('<failure message="x"/>', "NEVER_UNMAPPED", "NEVER_UNMAPPED is not in the message"),
    ],
)
def test_wrong_piece(tmp_path: Path, failure: str, shows: str, words: str) -> None:
    outcome = _run(tmp_path, failure)
    assert words in outcome.wrong(Piece("a", "A", "a/b#1", "m.", "n.", (shows,)))


def test_piece_that_fails_where_it_should_not() -> None:
    piece = Piece("a", "A", "a/b#1", "m.", "n.", ("UNMAP_SIZE",))
    assert "the mended driver fails: x" in Outcome(None, "UNMAP_SIZE", "x").wrong(piece)
    assert "fails on the plain kernel: x" in Outcome("x", "UNMAP_SIZE", None).wrong(piece)
    assert Outcome(None, "UNMAP_SIZE", None).wrong(piece) == ""


def test_test_that_did_not_run_has_failed(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    outcome = outcome_of(tmp_path, "")
    assert outcome.plain == "test_plain_kernel did not run"
