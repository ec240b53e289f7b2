# SPDX-License-Identifier: Apache-2.0
"""The table of promises: one row for each promise, verdict and who decided, the worst first."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Protocol

from dma_rehearsal.host_harness.verdict.host_view import BY_TEST

WIDTH = 139  # characters, where the table goes to no terminal
_WIDTH_MIN = 80
_SHARES = (27, 31, 42)  # of what is left beside the verdict, in percent
_SEPARATOR = " | "
_WORST_FIRST = ("broken", "unattested", "kept", "unsupported")


class Row(Protocol):
    """What is needed of a promise."""

    @property
    def promise(self) -> str:
        """Its name."""

    @property
    def asked(self) -> str:
        """What was asked for."""

    @property
    def attested(self) -> str:
        """What was seen."""

    @property
    def verdict(self) -> str:
        """Whether it is kept."""

    @property
    def reason(self) -> str:
        """Why not."""

    @property
    def test(self) -> str:
        """The test's node id."""

    @property
    def by(self) -> str:
        """Who decided."""

    @property
    def xfail(self) -> str:
        """Why that was expected."""


def usual_width() -> int:
    """Return the terminal's width, where there is one; never too small to read."""
    if not sys.stdout.isatty():
        return WIDTH
    return max(_WIDTH_MIN, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def lines(rows: Sequence[Row], width: int = WIDTH) -> list[str]:
    """Return the table, at most ``width`` characters wide.

    Of several rows it shows those of the test that has most: what was asked first and last, and
    what was attested last.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.promise, row.verdict, _suffix(row)), []).append(row)
    cells = [("promise", "asked", "attested by the device", "verdict")]
    for verdict in _WORST_FIRST:
        for (promise, each, suffix), alike in groups.items():
            if each == verdict:
                count = f" x{len(alike)}" if len(alike) > 1 else ""
                shown = _of_one_test(alike)
                asked = _span([row.asked for row in shown])
                attested = shown[-1].attested or shown[-1].reason
                cells.append((promise, asked, attested, f"{verdict}{count}{suffix}"))
    widths = _widths(width - max(len(verdict) for *_, verdict in cells))
    first, *others = (_line(each, widths) for each in cells)
    return [first, "-" * width, *others]


def _suffix(row: Row) -> str:
    by = ", by the test" if row.by == BY_TEST else ""
    return f"{by}, xfail" if row.xfail else by


def _widths(width: int) -> tuple[int, ...]:
    room = width - len(_SEPARATOR) * len(_SHARES)
    first, second, _ = (room * share // sum(_SHARES) for share in _SHARES)
    return first, second, room - first - second


def _line(texts: tuple[str, str, str, str], widths: Sequence[int]) -> str:
    *cells, verdict = texts
    cut = [
        text if len(text) <= width else text[: width - 1] + "…"
        for text, width in zip(cells, widths, strict=True)
    ]
    padded = [cell.ljust(width) for cell, width in zip(cut, widths, strict=True)]
    return _SEPARATOR.join([*padded, verdict]).rstrip()


def _of_one_test(rows: list[Row]) -> list[Row]:
    """Return the rows of the test function that has most of them: they are alike."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.test.partition("[")[0], []).append(row)
    return max(groups.values(), key=len)


def _span(texts: list[str]) -> str:
    """Return the one text, or the first and the last of several."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if not distinct:
        return ""
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} .. {distinct[-1]}"
