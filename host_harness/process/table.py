# SPDX-License-Identifier: Apache-2.0
"""Tables for people, drawn by rich: columns between bars, and a rule below the header.

A cell may hold a guest's text, so nothing in it is taken for markup. Widths are in characters of a
terminal: rich counts wide characters as two, and combining marks as none. rich is imported with the
first table: that takes 40 ms, and most commands print none.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# rich's box without edges: of its eight lines only the header's, the rule and the rows' are drawn.
_BOX = "    \n  | \n ---\n  | \n  | \n ---\n  | \n    \n"
_WIDEST = 10_000  # where no width is given, the columns decide how wide a table is


def preload() -> None:
    """Import what `lines` needs, for a caller that waits for something else now."""
    for name in "rich.box", "rich.cells", "rich.console", "rich.table", "rich.text":
        importlib.import_module(name)


def lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int | None = None,
    widths: Sequence[int | None] | None = None,
    styles: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the table's lines, without spaces at their ends.

    ``width`` is the most that a line may have; ``widths`` are those of the columns, with None for
    that of the longest cell. A cell that is too long wraps at words, and a word that is too long
    anywhere. ``styles`` gives the last column's cells that begin with one of its words a style of
    rich's; without it the lines are plain text.
    """
    from rich.box import Box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=Box(_BOX), show_edge=False, pad_edge=False, header_style=None)
    for name, each in zip(header, widths or [None] * len(header), strict=True):
        table.add_column(Text(name), width=each, overflow="fold")
    for *cells, last in rows:
        table.add_row(*map(Text, cells), Text(last, style=style_of(last, styles)))
    drawn = io.StringIO()
    _console(drawn, width or _WIDEST, colours=bool(styles)).print(table, crop=False)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def style_of(text: str, styles: Mapping[str, str] | None) -> str:
    """Return the style of a text that begins with one of the words of ``styles``; "" without."""
    known = styles or {}
    return next((known[word] for word in known if text.startswith(word)), "")


def wrapped(
    text: str, width: int, *, first: str = "", rest: str = "", style: str = ""
) -> list[str]:
    """Return one text as lines of at most ``width`` characters, wrapped at words.

    The first line begins with ``first``, the others with ``rest``. ``style`` is one of rich's for
    the text, "" for none.
    """
    from rich.text import Text

    drawn = io.StringIO()
    console = _console(drawn, width, colours=bool(style))
    room = max(1, width - max(cells(first), cells(rest)))
    for number, line in enumerate(Text(text, style=style).wrap(console, room, overflow="fold")):
        line.rstrip()
        console.print(Text.assemble(rest if number else first, line), soft_wrap=True)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def cells(text: str) -> int:
    """Return how many characters of a terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; one that is longer ends in an ellipsis."""
    from rich.cells import set_cell_size

    return text if cells(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _console(drawn: io.StringIO, width: int, *, colours: bool) -> Console:
    from rich.console import Console

    return Console(
        file=drawn,
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        no_color=not colours,
        legacy_windows=False,
        _environ={},  # the caller has decided
    )
