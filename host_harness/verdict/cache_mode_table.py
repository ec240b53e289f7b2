# SPDX-License-Identifier: Apache-2.0
"""The table of cache modes: the effective type of each, and the witnesses that agree on it."""

from __future__ import annotations

from collections.abc import Sequence

from dma_rehearsal.host_harness.process import table
from dma_rehearsal.host_harness.process.screen import WIDTH
from dma_rehearsal.host_harness.verdict.promise import Promise

# The facts of a row by which a guest test fills a column. A row without a mode is not shown.
MODE, EFFECTIVE, AGREED, NO_SNOOP = "mode", "effective", "agreed", "no-snoop"
_COLUMNS = {
    MODE: "mode asked",
    EFFECTIVE: "effective type",
    AGREED: "agreed by",
    NO_SNOOP: "no-snoop behaviour",
}
_DISAGREED = "no agreement"
_NOTHING = "-"


def lines(rows: Sequence[Promise], width: int = WIDTH) -> list[str]:
    """Return the table, a row for each mode that was asked for; none without any.

    Texts of several tests about one mode are listed in the order of the tests. A test that did not
    find the mode's promise kept is shown as no agreement.
    """
    modes: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if (mode := row.facts.get(MODE)) is None:
            continue
        cells = modes.setdefault(mode, {name: [] for name in _COLUMNS if name != MODE})
        for name, said in cells.items():
            if (text := row.facts.get(name)) is not None:
                text = _DISAGREED if name == AGREED and row.verdict != "kept" else text
                if text not in said:
                    said.append(text)
    if not modes:
        return []
    return table.lines(
        list(_COLUMNS.values()),
        (
            [mode, *("; ".join(said) or _NOTHING for said in cells.values())]
            for mode, cells in modes.items()
        ),
        width=width,
    )
