# SPDX-License-Identifier: Apache-2.0
"""A finding about a kernel driver: the same facts as in a failed test's words, apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MADE_BY = ", made by "
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class DriverFinding:
    """Something wrong in a test of a kernel driver.

    ``kind`` is the name to announce it by, or empty for a failure of the test itself; ``place`` is
    the driver's function and line, where one is known. ``buffer`` and ``next`` are lines for
    people, and ``text`` has all of them.
    """

    kind: str
    place: str
    what: str
    buffer: str
    next: str
    text: str

    @classmethod
    def of(cls, kind: str, place: str, lines: Sequence[str]) -> DriverFinding:
        """Return the finding that these lines tell people."""
        buffer = _labelled(lines, "buffer") or _labelled(lines, "there")
        buffer = buffer or _labelled(lines, "nearest grant")
        return cls(
            kind,
            place or made_by(buffer),
            lines[0],
            buffer,
            _labelled(lines, "next"),
            "\n".join(lines),
        )

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for findings of one mistake, which may show under several conditions."""
        if self.place:
            return self.kind, self.place, made_by(self.buffer)
        return self.kind, _NUMBERS.sub("#", self.what)


def made_by(buffer: str) -> str:
    """Return who made a buffer, by its words; empty where they do not tell."""
    return buffer.partition(_MADE_BY)[2].partition(", ")[0]


def _labelled(lines: Sequence[str], label: str) -> str:
    start = f"  {label}: "
    return next((each.removeprefix(start) for each in lines if each.startswith(start)), "")
