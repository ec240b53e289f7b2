# SPDX-License-Identifier: Apache-2.0
"""Makes the picture of a run: `python docs/picture.py` records `make test-vm` and draws its end.

Nothing in the picture is made up: it is what the run printed to a terminal. Lines that are left out
are marked by "[...]". The whole table goes to `pictures/run.txt`. A recording can be drawn again:
`python docs/picture.py --recording FILE`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pexpect
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

FOLDER = Path(__file__).parent / "pictures"
COMMAND = ["make", "test-vm"]
COLUMNS = 110
TIMEOUT_S = 1800
GAP = "[...]"
FONTS = "DejaVu Sans Mono, Menlo, Consolas"  # what a reader's machine has of them
# The rows of the table that the picture shows, by their promise.
PROMISES = (
    "kIODirectionOut",
    "kIODirectionIn ",
    "kIODirectionOut denial",
    "kIOMemoryPhysicallyContig",
    "kIOMapInhibitCache",
    "alignment",
    "MSI-X",
    "IODMACommand",
    "cache maintenance",
    "driver mistakes",
    "release",
    "protection unit",
    "kIOMapPostedWrite",
)
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-ln-z]|\x1b\][^\x07]*\x07")  # all but colours
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FONTS = re.compile(r"@font-face \{\{.*?\}\}\n", re.DOTALL)
_COLLECTED = re.compile(r"collected \d+ items")
_PROGRESS = re.compile(r"[.s]{20,}.*%\]")
_SUMMARY = re.compile(r"=+ \d+ passed")


def record(command: list[str]) -> str:
    """Run a command on a terminal of its own, and return what it printed."""
    environment = {**os.environ, "TERM": "xterm-256color"}
    child = pexpect.spawn(
        command[0],
        command[1:],
        dimensions=(50, COLUMNS),
        env=environment,
        timeout=TIMEOUT_S,
        encoding="utf-8",
    )
    child.expect(pexpect.EOF)
    child.close()
    if child.exitstatus:
        sys.exit(f"{' '.join(command)} ended with {child.exitstatus}")
    return child.before or ""


def lines(recording: str) -> list[str]:
    """Return what is on the screen at the end, line by line, with colours."""
    shown = []
    for line in recording.replace("\r\n", "\n").split("\n"):
        last = [part for part in line.split("\r") if _CONTROL.sub("", part).strip()]
        shown.append(_CONTROL.sub("", last[-1]).rstrip() if last else "")
    return shown


def plain(line: str) -> str:
    """Return a line without colours."""
    return _COLOUR.sub("", line).rstrip()


def table(shown: list[str]) -> list[str]:
    """Return the run's end, from the head of the table on, without the replay: it names folders."""
    head = next(n for n, line in enumerate(shown) if plain(line).startswith("promise "))
    return [line for line in shown[head:] if not plain(line).startswith("replay: ")]


def excerpt(shown: list[str]) -> Iterator[str]:
    """Yield the lines of the picture."""
    end = table(shown)
    before = shown[: len(shown) - len(end)]
    yield from [line for line in before if _COLLECTED.match(plain(line))][-1:]
    yield from (GAP, *[line for line in before if _PROGRESS.search(plain(line))][-2:])
    yield from (*[line for line in before if _SUMMARY.match(plain(line))][-1:], "")
    rows = next(n for n, line in enumerate(end) if n and not plain(line).strip())
    yield from (*end[:2], *_chosen(end[2:rows]), GAP, *end[rows:])


def _chosen(rows: list[str]) -> list[str]:
    """Return the lines of the first row of each promise that the picture shows."""
    whole: list[list[str]] = []
    for line in rows:
        if plain(line).startswith(" ") and whole:  # a cell that wraps
            whole[-1].append(line)
        else:
            whole.append([line])
    first = {
        next((row[0] for row in whole if plain(row[0]).startswith(each)), "") for each in PROMISES
    }
    return [line for row in whole if row[0] in first for line in row]


def draw(shown: Iterable[str], title: str) -> str:
    """Return an SVG picture, which loads nothing from elsewhere."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        for line in shown:
            console.print(Text.from_ansi(line), overflow="fold")
        template = _FONTS.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code", FONTS)
        return console.export_svg(title=title, theme=MONOKAI, code_format=template)


def main(argv: list[str]) -> None:
    """Record a run, or take a recording, and write the picture and the table."""
    parser = argparse.ArgumentParser(description="Draws the picture of a run.")
    parser.add_argument("--recording", type=Path, help="draw this one; do not run anything")
    parser.add_argument("--keep", type=Path, help="keep the recording in this file")
    given = parser.parse_args(argv)
    recording = given.recording.read_bytes().decode() if given.recording else record(COMMAND)
    if given.keep:
        given.keep.write_bytes(recording.encode())
    shown = lines(recording)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "run.svg").write_text(draw(excerpt(shown), " ".join(COMMAND)))
    end = "\n".join(plain(line) for line in table(shown))
    (FOLDER / "run.txt").write_text(end.rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
