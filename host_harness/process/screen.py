# SPDX-License-Identifier: Apache-2.0
"""The screen that a stream goes to: columns, lines, and whether it shows colours and live lines.

The rules are pytest's and rich's, so that all parts of the output agree: NO_COLOR and FORCE_COLOR
(no-color.org, force-color.org), COLUMNS and LINES before the terminal's own size, and TERM=dumb.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TextIO

WIDTH = 139  # characters, where the output is not a terminal
_WIDTH_MIN, _WIDTH_MAX = 40, 240
HEIGHT = 24  # lines; a terminal's size is never smaller than what is printed for this


@dataclass(frozen=True, slots=True)
class Screen:
    """What a stream can show. ``width`` is in characters, and ``height`` in lines.

    ``live``: lines on it can be drawn again. ``colours``: escape sequences for colours are shown.
    """

    width: int = WIDTH
    height: int = HEIGHT
    colours: bool = False
    live: bool = False

    @classmethod
    def of(cls, stream: TextIO | None = None, *, colours: bool | None = None) -> Screen:
        """Return the screen of a stream (default: standard output), as it is now.

        ``colours`` decides where the user has said it otherwise, such as by --color=yes.
        """
        shown = stream or sys.stdout
        terminal = shown.isatty()
        size = shutil.get_terminal_size((WIDTH, HEIGHT))
        # Without a terminal here, the size may be that of another one: of make's, for example.
        width = size.columns if terminal or os.environ.get("COLUMNS") else WIDTH
        live = terminal and os.environ.get("TERM") != "dumb"
        return cls(
            max(_WIDTH_MIN, min(_WIDTH_MAX, width)),
            max(HEIGHT, size.lines) if terminal else HEIGHT,
            _colours(live) if colours is None else colours,
            live,
        )


def _colours(live: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return live or bool(os.environ.get("FORCE_COLOR"))
