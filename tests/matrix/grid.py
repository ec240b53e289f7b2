# SPDX-License-Identifier: Apache-2.0
"""The matrix's report: a row for each profile, a column for each way to run it, and the faults."""

from __future__ import annotations

from collections.abc import Sequence

from tests.matrix.cells import Result

COLUMNS = ("coherent", "noncoherent", "coherent-iommu", "noncoherent-iommu")


def grid(results: Sequence[Result], wall_s: float | None = None) -> list[str]:
    """Return the report's lines. What came out wrong has its command; ``wall_s``: all of it.

    A column that is not among `COLUMNS` is a KeyError: each cell has a place or there is a mistake.
    """
    lines: list[str] = []
    places = {(each.profile, each.column): _shown(each) for each in results if not each.fault}
    if unknown := {column for _, column in places}.difference(COLUMNS):
        raise KeyError(f"no column of the report is called {sorted(unknown)}")
    if places:
        rows = [
            [name, *(places.get((name, column), "-") for column in COLUMNS)]
            for name in dict.fromkeys(name for name, _ in places)
        ]
        lines += _table(["profile", *COLUMNS], rows)
    if faults := [each for each in results if each.fault]:
        rows = [[each.fault, each.profile, each.column, _found(each)] for each in faults]
        lines += [*([""] if lines else []), *_table(["fault", "profile", "column", "found"], rows)]
    wrong = [each for each in results if not each.ok]
    for each in wrong:
        lines += ["", f"{each.cell}: {each.complaint or each.unlike or 'see its run folder'}"]
        lines += [f"  again: {each.command}"]
    seconds = sum(each.seconds for each in results)
    wall = "" if wall_s is None else f" in {wall_s:.0f} s"
    cpu = sum(each.cpu_s for each in results)
    good = f"{len(results) - len(wrong)} of {len(results)} cells as due{wall}"
    return [*lines, "", f"{good}; {seconds:.0f} s of VMs, {cpu:.0f} s of CPUs"]


def _shown(result: Result) -> str:
    outcome = f"{result.passed} passed" if result.ok else f"RED {result.status}"
    if result.unlike:
        outcome += ", STARTS DIFFER"
    if result.failed:
        outcome += f", {result.failed} failed"
    return f"{outcome}, {result.seconds:.0f} s"


def _found(result: Result) -> str:
    if result.unlike:
        return f"STARTS DIFFER, status {result.status}"
    return f"{result.complaint:.60}" if result.ok else f"NOT FOUND, status {result.status}"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
