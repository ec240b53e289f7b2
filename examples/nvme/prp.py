# SPDX-License-Identifier: Apache-2.0
"""Physical Region Pages: a command's data in memory (4.3 Physical Region Page Entry and List)."""

from __future__ import annotations

import struct
from collections.abc import Callable

from examples.nvme.layout import PAGE, TRANSFER_MAX, CommandFailed, Status

_ENTRY = 8  # bytes
_OFFSET = PAGE - 1


def ranges(
    read: Callable[[int, int], bytes], prp1: int, prp2: int, length: int
) -> list[tuple[int, int]]:
    """Return where ``length`` bytes lie: (bus address, bytes), in order.

    ``read`` reads the pages of a list, each once. CommandFailed: the length is beyond MDTS, or an
    entry's offset is not allowed. What ``read`` raises passes.
    """
    if length > TRANSFER_MAX:
        raise CommandFailed(Status.INVALID_FIELD)
    if prp1 % 4:
        raise CommandFailed(Status.PRP_OFFSET_INVALID)
    first = min(length, PAGE - (prp1 & _OFFSET))
    found = [(prp1, first)]
    left = length - first
    if left <= 0:
        return found
    if left <= PAGE:
        if prp2 & _OFFSET:
            raise CommandFailed(Status.PRP_OFFSET_INVALID)
        return [*found, (prp2, left)]
    if prp2 % _ENTRY:
        raise CommandFailed(Status.PRP_OFFSET_INVALID)
    at = prp2
    while left > 0:
        needed = -(-left // PAGE)
        room = (PAGE - (at & _OFFSET)) // _ENTRY
        # The last entry of a page leads to the next one when there are more pages than entries.
        count = min(needed, room)
        chained = needed > room
        data = read(at, count * _ENTRY)
        entries = list(struct.unpack(f"<{count}Q", data))
        at = entries.pop() if chained else 0
        if any(entry & _OFFSET for entry in (*entries, at)):
            raise CommandFailed(Status.PRP_OFFSET_INVALID)
        for entry in entries:
            found.append((entry, min(left, PAGE)))
            left -= PAGE
    return found
