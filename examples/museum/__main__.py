# SPDX-License-Identifier: Apache-2.0
"""``make museum``: run each piece in a VM of its own, and print the table.

Three tests make a row: the buggy driver on the plain kernel, the buggy one with the rig, and the
mended one with the rig. A row is right when the second test alone fails, with what the piece says
that the rig shows. Status 1 when a row is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dma_rehearsal.host_harness.process import table
from examples.museum.pieces import FOLDER, Piece, all_pieces

LIMIT_S = 300  # of one piece, with a guest that boots
HEADER = ("piece", "report", "plain kernel", "with the rig", "mended")
_PLAIN, _BUGGY, _MENDED = "test_plain_kernel", "test_with_the_rig[buggy", "test_with_the_rig[mended"
_CHECKOUT = FOLDER.parents[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a piece: for each of its three tests None when it passed, else the message."""

    plain: str | None
    buggy: str | None
    mended: str | None

    def wrong(self, piece: Piece) -> str:
        """Return what is not as the museum says, "" when all is."""
        if self.plain is not None and piece.plain == "silent":
            return f"fails on the plain kernel: {self.plain}"
        if self.buggy is None:
            return "the mistake passes"
        if self.mended is not None:
            return f"the mended driver fails: {self.mended}"
        missing = [kind for kind in piece.shows if kind != "wrong data" and kind not in self.buggy]
        return f"{', '.join(missing)} is not in the message: {self.buggy}" if missing else ""


def outcome_of(run: Path, printed: str) -> Outcome:
    """Read the outcome of a run from its folder, and from what it printed of failures.

    A test that did not run has failed.
    """
    found: dict[str, list[str | None]] = {_PLAIN: [], _BUGGY: [], _MENDED: []}
    for case in ElementTree.parse(run / "junit.xml").iter("testcase"):
        name = case.get("name", "")
        bad = [each for each in case if each.tag in ("failure", "error")]
        said = [f"{each.get('message', '')}\n{each.text or ''}".strip() for each in bad]
        for start, messages in found.items():
            if name.startswith(start):
                words = "\n".join([*said, _printed_of(name, printed)])
                messages.append(words if bad else None)
    return Outcome(*(_worst(name, messages) for name, messages in found.items()))


def _printed_of(name: str, printed: str) -> str:
    """Return what a run printed about a failed test: pytest's own words, then the host's."""
    _, _, section = printed.partition(f"_ {name} _")
    return re.split(r"^(?:_+ .+ _+|=+ .+ =+|- generated .+)$", section, flags=re.MULTILINE)[0]


def _worst(name: str, messages: list[str | None]) -> str | None:
    if not messages:
        return f"{name} did not run"
    failed = [message for message in messages if message is not None]
    return "\n".join(failed) if failed else None


def run(piece: Piece, runs: Path) -> Outcome:
    """Run a piece's tests in a VM. Without a verdict each of them has failed, for that reason."""
    settings = {
        "MODULE": str(piece.folder),
        "ENDPOINT": f"examples.museum.{piece.name}.device:Device",
    }
    argv = [sys.executable, "-m", "dma_rehearsal.host_harness", "test", "--runs", str(runs)]
    done = subprocess.run(
        [
            *argv,
            "--tests",
            str(FOLDER.relative_to(_CHECKOUT)),
            str(piece.folder.relative_to(_CHECKOUT)),
        ],
        cwd=_CHECKOUT,
        env={**os.environ, **settings},
        timeout=LIMIT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        return Outcome(*3 * [f"no verdict: status {done.returncode}\n{said}"])
    return outcome_of(runs / "latest", done.stdout)


def _row(piece: Piece, outcome: Outcome) -> list[str]:
    wrong = outcome.wrong(piece)
    said = f"WRONG: {wrong}" if wrong else ", ".join(piece.shows)
    return [
        piece.title,
        piece.source,
        "silent" if outcome.plain is None else "fails",
        said.partition("\n")[0],
        "passes" if outcome.mended is None else "fails",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the pieces that are named, else all; print the table; return the status."""
    pieces = {each.name: each for each in all_pieces()}
    parser = argparse.ArgumentParser(prog="python -m examples.museum", description=__doc__)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(pieces)}")
    parser.add_argument("--jobs", type=int, default=2, help="VMs at a time (default: 2)")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep the runs' artefacts here")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.pieces) - set(pieces)):
        parser.error(f"there is no piece {unknown[0]}")
    chosen = [pieces[name] for name in options.pieces or pieces]
    rows, bad = [], 0
    with (
        tempfile.TemporaryDirectory(prefix="museum-") as folder,
        ThreadPoolExecutor(max(1, options.jobs)) as pool,
    ):
        runs = options.runs or Path(folder)
        done = pool.map(lambda each: run(each, runs / each.name), chosen)
        for piece, outcome in zip(chosen, done, strict=True):
            wrong = outcome.wrong(piece)
            bad += bool(wrong)
            print(f"{piece.name}: {wrong or 'as it should be'}", file=sys.stderr, flush=True)
            rows.append(_row(piece, outcome))
    print("\n".join(table.lines(HEADER, rows)))
    print(f"\n{len(chosen)} pieces, {bad} wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
