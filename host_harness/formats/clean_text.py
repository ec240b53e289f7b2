# SPDX-License-Identifier: Apache-2.0
"""Untrusted text for files: printable, and bounded. Each writer adds its format's own escapes."""

from __future__ import annotations

from collections.abc import Iterable

from dma_rehearsal.host_harness.process.plain_text import printable

LINE_MAX = 300  # characters
BLOCK_MAX = 20_000
UNNAMED = "unnamed"
_LINES_MAX = 400
_SHOWN_OF_NAME = 40  # characters of the end of a long name: it distinguishes tests
_LEFT_OUT = "... ({} left out)"


def line(text: object, limit: int = LINE_MAX) -> str:
    """Return one line of at most ``limit`` characters: no newlines, controls or escapes."""
    text = str(text)
    # What is cut off need not be cleaned: a hostile text can be long.
    clean = " ".join(printable(text[: 4 * limit]).split())
    return clean if len(clean) <= limit and len(text) <= 4 * limit else f"{clean[: limit - 3]}..."


def name(text: str, limit: int = LINE_MAX) -> str:
    """Return a test's name as one line; a long one keeps its end. Never empty."""
    if len(text) > limit:
        text = f"{text[: limit - _SHOWN_OF_NAME - 3]}...{text[-_SHOWN_OF_NAME:]}"
    return line(text, limit) or UNNAMED


def lines(text: str, limit: int = BLOCK_MAX) -> list[str]:
    """Return the lines of a text, at most ``limit`` characters in all.

    A longer text keeps its beginning and says how much is left out.
    """
    left_out = len(text) - limit
    split = text[:limit].splitlines()
    found = [printable(each) for each in split[:_LINES_MAX]]
    if len(split) > _LINES_MAX:
        found.append(_LEFT_OUT.format(f"{len(split) - _LINES_MAX} lines"))
    if left_out > 0:
        found.append(_LEFT_OUT.format(f"{left_out} characters"))
    return found


def block(text: str, limit: int = BLOCK_MAX) -> str:
    """Return `lines` as one text."""
    return "\n".join(lines(text, limit))


def unique(names: Iterable[str]) -> list[str]:
    """Return the names, each once: one that comes again gets a number."""
    names = list(names)
    taken, found = set(names), []
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for each in names:
        if each in seen:
            number = counts.get(each, 1) + 1
            while f"{each}-{number}" in taken:
                number += 1
            counts[each] = number
            each = f"{each}-{number}"
            taken.add(each)
        seen.add(each)
        found.append(each)
    return found
