# SPDX-License-Identifier: Apache-2.0
"""``dma-rehearsal diff``: prints what changed between two runs, or between a model and a board.

The documents may be anyone's. They are bounded and checked as they are read; their texts are
printed without control characters, and the tables end after a number of rows.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from dma_rehearsal.host_harness.cli import diff_run
from dma_rehearsal.host_harness.cli.diff_arguments import PARTS
from dma_rehearsal.host_harness.cli.diff_differences import Difference, differences, notes
from dma_rehearsal.host_harness.cli.diff_run import ComparedRun
from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.errors import Status, UsageError
from dma_rehearsal.host_harness.process.plain_text import printable
from dma_rehearsal.host_harness.process.screen import Screen

_ROWS_MAX = 200  # of a table
_TEXT_MAX = 400  # characters of a cell
_BEFORE = 40  # of these, how many are before the first that differs
_MISSING = "-"
_SEPARATOR_WIDTH = 3
_COLUMNS = {
    "environment": ("what", "one", "other"),
    "limits": ("limit", "one", "other"),
    "tests": ("test", "one", "other"),
    "promises": ("test", "what", "one", "other"),
}


def run(known: argparse.Namespace) -> Status:
    """Compare two runs; PASSED when they are the same, FAILED when they differ.

    ``known`` has the arguments: ``one``, ``other``, ``runs``, ``json``, ``all`` and ``only``.
    UsageError when a run cannot be compared.
    """
    parts = _parts(known.only)
    one, other = (diff_run.read(each, known.runs) for each in (known.one, known.other))
    found = differences(one, other, parts=parts, noise=known.all)
    if known.json:
        print(_document(one, other, found))
    else:
        print("\n".join(lines(one, other, found, Screen.of().width)))
    return Status.FAILED if found else Status.PASSED


def _parts(text: str | None) -> tuple[str, ...]:
    if text is None:
        return PARTS
    words = tuple(text.split(","))
    if wrong := [each for each in words if each not in PARTS]:
        raise UsageError(
            f"--only {printable(text)}: a run has no part {printable(wrong[0])!r}",
            f"name one or more of these, separated by ',': {', '.join(PARTS)}",
        )
    return words


def _document(one: ComparedRun, other: ComparedRun, found: Sequence[Difference]) -> str:
    whole = {
        "schema": "dma-rehearsal/diff",
        "version": "1.0",
        "one": {"name": one.name, "status": one.status},
        "other": {"name": other.name, "status": other.status},
        "notes": notes(one, other),
        "differences": [asdict(each) for each in found],
    }
    return json.dumps(whole, indent=1)


def lines(
    one: ComparedRun, other: ComparedRun, found: Sequence[Difference], width: int
) -> list[str]:
    """Return the differences as tables of at most ``width`` characters."""
    said = table.wrapped(one.summary, width, first="one:   ", rest="  ")
    said += table.wrapped(other.summary, width, first="other: ", rest="  ")
    for note in notes(one, other):
        said += table.wrapped(f"note: {note}", width, rest="  ")
    for part in PARTS:
        rows = [each for each in found if each.part == part]
        if rows:
            said += ["", part, "", *_table(_COLUMNS[part], rows[:_ROWS_MAX], width)]
        if len(rows) > _ROWS_MAX:
            said.append(f"... and {len(rows) - _ROWS_MAX} more: --json has them all")
    counts = Counter(each.part for each in found)
    words = ", ".join(f"{part} {counts[part]}" for part in PARTS if counts[part])
    plural = "" if len(found) == 1 else "s"
    return [*said, "", f"{len(found)} difference{plural}: {words}" if found else "no differences"]


def _table(header: Sequence[str], rows: Sequence[Difference], width: int) -> list[str]:
    cells, last = [], ""
    for each in rows:
        subject = [each.test or each.name] if len(header) == 3 else [each.test, each.name]
        if len(subject) > 1:  # a test's name once is enough
            last, subject[0] = each.test, "" if each.test == last else each.test
        cells.append([*(printable(text)[:_TEXT_MAX] for text in subject), *_values(each)])
    columns = zip(header, *cells, strict=True)
    widest = [max(map(table.cells, column)) for column in columns]
    room = width - _SEPARATOR_WIDTH * (len(header) - 1)
    return table.lines(header, cells, widths=_shared(widest, room))


def _shared(widest: Sequence[int], room: int) -> list[int]:
    """Return the columns' widths: narrow ones have what they need, the others share the rest."""
    widths = dict.fromkeys(range(len(widest)), 0)
    left = sorted(widths, key=lambda number: widest[number])
    while left:
        number = left.pop(0)
        widths[number] = max(1, min(widest[number], room // (len(left) + 1)))
        room -= widths[number]
    return list(widths.values())


def _values(each: Difference) -> Iterator[str]:
    """Yield the texts of both runs; of long ones the part with the first that differs."""
    one, other = (_MISSING if text is None else printable(text) for text in (each.one, each.other))
    pairs = enumerate(zip(one, other, strict=False))
    alike = next((place for place, (here, there) in pairs if here != there), 0)
    for text in (one, other):
        start = max(0, alike - _BEFORE) if len(text) > _TEXT_MAX else 0
        end = start + _TEXT_MAX
        yield f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
