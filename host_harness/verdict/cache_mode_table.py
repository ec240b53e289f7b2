# SPDX-License-Identifier: Apache-2.0
"""The table of cache modes: what each came to, and who found it so independently of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

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


class Row(Protocol):
    """What is needed of a promise."""

    @property
    def verdict(self) -> str:
        """Whether it is kept."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Its facts."""


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the table, one line for each mode that was asked for; none without any.

    What several tests say of a mode is listed in their order; what a test says of a mode whose
    promise it did not find kept is shown as no agreement.
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
    whole = [list(_COLUMNS.values())]
    for mode, cells in modes.items():
        whole.append([mode, *("; ".join(said) or _NOTHING for said in cells.values())])
    widths = [max(len(line[column]) for line in whole) for column in range(len(_COLUMNS))]
    printed = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in whole
    ]
    return [printed[0], "-" * len(printed[0]), *printed[1:]]
