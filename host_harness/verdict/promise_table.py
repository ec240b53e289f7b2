# SPDX-License-Identifier: Apache-2.0
"""The table of promises: a row for each promise and verdict, the worst first."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.verdict.promise import BY_TEST, Promise

WIDTH = 139  # characters, where the output is not a terminal
_WIDTH_MIN = 80
_SHARES = (27, 31, 42)  # of the width beside the verdict, in percent
_SEPARATOR_WIDTH = 3
_HEADER = ("promise", "asked", "attested by the device", "verdict")
_WORST_FIRST = ("broken", "unattested", "kept", "unsupported")
_STYLES = {"broken": "bold red", "unattested": "yellow", "kept": "green"}


def on_terminal() -> bool:
    """Whether the table goes to a terminal, which can show colours."""
    return sys.stdout.isatty()


def usual_width() -> int:
    """Return the terminal's width, where there is one; never too small to read."""
    if not on_terminal():
        return WIDTH
    return max(_WIDTH_MIN, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def lines(rows: Sequence[Promise], width: int = WIDTH, *, colours: bool = False) -> list[str]:
    """Return the table, at most ``width`` characters wide, with ``colours`` for a terminal.

    Where a promise has several rows, the table shows those of the test with most of them: the first
    and the last request, and the last attestation.
    """
    groups: dict[tuple[str, str, str], list[Promise]] = {}
    for row in rows:
        groups.setdefault((row.promise, row.verdict, _suffix(row)), []).append(row)
    cells = []
    for verdict in _WORST_FIRST:
        for (promise, each, suffix), alike in groups.items():
            if each == verdict:
                count = f" x{len(alike)}" if len(alike) > 1 else ""
                shown = _of_one_test(alike)
                asked = _span([row.asked for row in shown])
                attested = shown[-1].attested or shown[-1].reason
                cells.append((promise, asked, attested, f"{verdict}{count}{suffix}"))
    room = width - max(len(verdict) for *_, verdict in (_HEADER, *cells))
    styles = _STYLES if colours else None
    return table.lines(_HEADER, cells, widths=(*_widths(room), None), styles=styles)


def _suffix(row: Promise) -> str:
    by = ", by the test" if row.by == BY_TEST else ""
    return f"{by}, xfail" if row.xfail else by


def _widths(width: int) -> tuple[int, ...]:
    room = width - _SEPARATOR_WIDTH * len(_SHARES)
    first, second, _ = (room * share // sum(_SHARES) for share in _SHARES)
    return first, second, room - first - second


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
