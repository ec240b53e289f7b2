"""Where two pieces of memory differ, found with comparisons of whole ranges first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_BLOCK = 4096
_NONZERO = re.compile(rb"[^\0]+")


def runs(old: bytes | bytearray, new: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield [low, high) of every run of bytes in which the two, of one length, differ."""
    if old == new:
        return
    exclusive = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
    for found in _NONZERO.finditer(exclusive.to_bytes(len(old), "little")):
        yield found.span()


def changed_lines(
    old: bytearray, start: int, new: bytes | bytearray, line: int
) -> Iterator[tuple[int, int]]:
    """Yield the runs of lines [first, last) of ``new`` that are not as ``old`` has them.

    ``new`` begins at ``start`` of ``old``.
    """

    def changed() -> Iterator[int]:
        for block in range(0, len(new), _BLOCK):
            part = new[block : block + _BLOCK]
            if old.startswith(part, start + block):
                continue
            for at in range(0, len(part), line):
                if not old.startswith(part[at : at + line], start + block + at):
                    yield (block + at) // line

    return joined(changed())


def joined(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs [first, last) of rising numbers."""
    first = last = -1
    for index in indexes:
        if index != last:
            if first >= 0:
                yield first, last
            first = index
        last = index + 1
    if first >= 0:
        yield first, last
