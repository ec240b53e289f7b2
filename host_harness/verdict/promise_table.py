# SPDX-License-Identifier: Apache-2.0
"""The table of promises: a row for each promise and verdict, the worst first.

A cell that is too long wraps at words. Where the screen is too narrow for columns, each row is a
block of lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.screen import WIDTH
from dma_rehearsal.host_harness.verdict.promise import BY_TEST, Promise

_SHARES = (27, 31, 42)  # of the width beside the verdict, in percent
_SEPARATOR_WIDTH = 3
_COLUMNS_MIN = 100  # characters of the screen; with fewer, there are no columns
# Characters of a cell, of promises that are kept and of others.
_KEPT_MAX, _CELL_MAX = 240, 2000
_HEADER = ("promise", "asked", "attested by the device", "verdict")
_WORST_FIRST = ("broken", "unattested", "kept", "unsupported")
STYLES = {
    "broken": "bold red",
    "unattested": "yellow",
    "kept": "green",
    "unsupported": "cyan",
}
"""The styles of verdicts, by their first words; they repeat what the words say."""

Row = tuple[str, ...]


def lines(rows: Sequence[Promise], width: int = WIDTH, *, colours: bool = False) -> list[str]:
    """Return the table, at most ``width`` characters wide, with ``colours`` for a terminal.

    Where a promise has several rows, the table shows those of the test with most of them: the first
    and the last request, and the last attestation.
    """
    groups: dict[tuple[str, str, str], list[Promise]] = {}
    for row in rows:
        groups.setdefault((row.promise, row.verdict, _suffix(row)), []).append(row)
    shown: list[Row] = []
    for verdict in _WORST_FIRST:
        for (promise, each, suffix), alike in groups.items():
            if each == verdict:
                count = f" x{len(alike)}" if len(alike) > 1 else ""
                of_one = _of_one_test(alike)
                asked = _span([row.asked for row in of_one])
                attested = of_one[-1].attested or of_one[-1].reason
                bounded = (_bounded(text, verdict) for text in (asked, attested))
                shown.append((promise, *bounded, f"{verdict}{count}{suffix}"))
    styles = STYLES if colours else None
    if width < _COLUMNS_MIN:
        return [line for row in shown for line in _block(row, width, colours=colours)]
    return table.lines(_HEADER, shown, width=width, widths=_widths(shown, width), styles=styles)


def _block(row: Row, width: int, *, colours: bool) -> list[str]:
    """Return a row as lines below each other: verdict and promise, asked, attested."""
    promise, asked, attested, verdict = row
    style = table.style_of(verdict, STYLES) if colours else ""
    found = table.wrapped(f"{verdict}: {promise}", width, rest="  ", style=style)
    for label, text in (("asked", asked), ("attested", attested)):
        if text:
            found += table.wrapped(text, width, first=f"  {label}: ", rest=" " * 4)
    return found


def _widths(rows: Sequence[Row], width: int) -> tuple[int, ...]:
    """Return the columns' widths: no wider than their cells, and else by their shares."""
    longest = [max(map(table.cells, column)) for column in zip(_HEADER, *rows, strict=True)]
    room = width - _SEPARATOR_WIDTH * len(_SHARES)
    room -= longest[-1]
    found: list[int] = []
    for number, share in enumerate(_SHARES):
        part = room * share // sum(_SHARES[number:])
        found.append(min(part, longest[number]))
        room -= found[-1]
    return *found, longest[-1]


def _bounded(text: str, verdict: str) -> str:
    """Return a text that a table can hold; attestations.json has all of it."""
    limit = _KEPT_MAX if verdict == "kept" else _CELL_MAX
    if len(text) <= limit:
        return text
    return f"{text[:limit].rpartition(' ')[0] or text[:limit]} … (whole in attestations.json)"


def _suffix(row: Promise) -> str:
    by = ", by the test" if row.by == BY_TEST else ""
    return f"{by}, xfail" if row.xfail else by


def _of_one_test(rows: list[Promise]) -> list[Promise]:
    """Return the rows of the test function that has most of them: they are alike."""
    groups: dict[str, list[Promise]] = {}
    for row in rows:
        groups.setdefault(row.test.partition("[")[0], []).append(row)
    return max(groups.values(), key=len)


def _span(texts: list[str]) -> str:
    """Return the one text, or the first and the last of several."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if not distinct:
        return ""
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} .. {distinct[-1]}"
