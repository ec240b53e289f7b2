# SPDX-License-Identifier: Apache-2.0
"""Tables for people, drawn by rich: columns between bars, and a rule below the header.

A cell may hold a guest's text, so nothing in it is taken for markup. rich is imported with the
first table: that takes 40 ms, and most commands print none.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping, Sequence

# rich's box without edges: of its eight lines only the header's, the rule and the rows' are drawn.
_BOX = "    \n  | \n ---\n  | \n  | \n ---\n  | \n    \n"
_CONSOLE_WIDTH = 10_000  # the columns decide how wide a table is


def preload() -> None:
    """Import what `lines` needs, for a caller that waits for something else now."""
    for name in "rich.box", "rich.console", "rich.table", "rich.text":
        importlib.import_module(name)


def lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    widths: Sequence[int | None] | None = None,
    styles: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the table's lines, without spaces at their ends.

    ``widths`` has a number of characters for each column, or None for the width of its longest
    cell; without it every column is as wide as that. A cell that is too long ends in an ellipsis.
    ``styles`` gives the last column's cells that begin with one of its words a style of rich's;
    without it the lines are plain text.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=Box(_BOX), show_edge=False, pad_edge=False, header_style=None)
    for name, width in zip(header, widths or [None] * len(header), strict=True):
        table.add_column(Text(name), width=width, no_wrap=True, overflow="ellipsis")
    known = styles or {}
    for *cells, last in rows:
        style = next((known[word] for word in known if last.startswith(word)), "")
        table.add_row(*map(Text, cells), Text(last, style=style))
    drawn = io.StringIO()
    console = Console(
        file=drawn,
        width=_CONSOLE_WIDTH,
        force_terminal=bool(styles),
        color_system="standard" if styles else None,
    )
    console.print(table, crop=False)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]
