# SPDX-License-Identifier: Apache-2.0
"""Untrusted text, made safe for a terminal: a line, several lines, and the end of a log."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_SIZE = 1 << 16  # a hostile console can be long
# ECMA-48: control sequences, and operating system commands up to their end.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


def tail(path: Path, lines: int = 20) -> list[str]:
    """Return the last lines of a text file, safe for a terminal; nothing without the file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_SIZE))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    plain = (printable(line) for line in text.splitlines())
    return [line for line in plain if line][-lines:]


def printable(text: str) -> str:
    """Return a line of the guest without escape sequences and control characters."""
    text = _ESCAPES.sub("", text)
    return "".join(each if each.isprintable() else " " for each in text).rstrip()


def printable_lines(text: str) -> str:
    """Return lines of the guest without escape sequences; a tab becomes spaces."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


def printable_value(value: object) -> object:
    """Return a JSON value of the guest with its texts as `printable_lines` has them."""
    if isinstance(value, str):
        return printable_lines(value)
    if isinstance(value, list):
        return [printable_value(each) for each in value]
    if isinstance(value, dict):
        return {name: printable_value(each) for name, each in value.items()}
    return value
