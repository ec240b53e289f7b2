# SPDX-License-Identifier: Apache-2.0
"""Physical Region Pages: where a command's data lie in memory (4.3 PRP Entry and List)."""

import struct
from collections.abc import Awaitable, Callable

from examples.nvme.layout import PAGE, TRANSFER_PAGES, Command, Status, check

Read = Callable[[int, int], Awaitable[bytes]]


async def ranges(read: Read, command: Command, length: int) -> list[tuple[int, int]]:
    """Return where ``length`` bytes lie: (bus address, bytes). ``read`` reads lists, each once."""
    check(length <= PAGE * TRANSFER_PAGES, Status.INVALID_FIELD)
    check(command.prp1 % 4 == 0, Status.PRP_OFFSET_INVALID)
    first = min(length, PAGE - command.prp1 % PAGE)
    starts, at = range(first, length, PAGE), command.prp2
    pages = [at] if len(starts) == 1 else []
    while len(pages) < len(starts):
        check(at % 8 == 0, Status.PRP_OFFSET_INVALID)
        room, wanted = (PAGE - at % PAGE) // 8, len(starts) - len(pages)
        count = min(room, wanted)
        pages += struct.unpack(f"<{count}Q", await read(at, 8 * count))
        if room < wanted:
            at = pages.pop()  # the last entry of a page leads to the next page of the list
            check(at % PAGE == 0, Status.PRP_OFFSET_INVALID)
    check(not any(page % PAGE for page in pages), Status.PRP_OFFSET_INVALID)
    rest = [(page, min(PAGE, length - start)) for page, start in zip(pages, starts, strict=True)]
    return [(command.prp1, first), *rest]
