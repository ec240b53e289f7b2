# SPDX-License-Identifier: Apache-2.0
"""A small terminal: what is on its screen after some output, line by line."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Emulated:
    """Takes output; ``lines`` is what can be seen, ``cursor`` whether the cursor can."""

    def __init__(self) -> None:
        self.lines = [""]
        self.cursor = True
        self._row = self._column = 0

    def feed(self, output: str) -> None:
        """Take output. AssertionError for a sequence that it does not know."""
        place = 0
        while place < len(output):
            part = _PART.match(output, place)
            assert part, f"unknown: {output[place : place + 20]!r}"
            place = part.end()
            number, control, move, text = part.groups()
            if control:
                self._control(number, control)
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            else:
                old = self.lines[self._row].ljust(self._column)
                end = self._column + len(text)
                self.lines[self._row] = old[: self._column] + text + old[end:]
                self._column = end

    def _control(self, number: str, control: str) -> None:
        if control == "A":
            self._row = max(0, self._row - int(number or 1))
        elif control == "K":
            line = self.lines[self._row]
            self.lines[self._row] = "" if number == "2" else line[: self._column]
        elif control in "hl" and number == "?25":
            self.cursor = control == "h"
        else:
            assert control == "m", f"unknown: {number!r} {control}"
