# SPDX-License-Identifier: Apache-2.0
"""The saved state of an endpoint: some bytes of its BARs, which the author lists.

    state = (StatePart(bar=1, offset=0, length=0x3000), StatePart(bar=0, offset=0, length=8))

Configuration space is not a part of it: QEMU, which emulates most of it, carries that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.vfio_user.migration import Migration


@dataclass(frozen=True, slots=True)
class StatePart:
    """``length`` bytes from ``offset`` of a BAR: memory, or the stored values of registers.

    No side effect of a register happens when its value is saved or loaded.
    """

    bar: int
    offset: int
    length: int


def migration(
    parts: Sequence[StatePart],
    contents: Mapping[int, BarContent],
    *,
    loaded: Callable[[], None],
    stopped: Callable[[], None],
    running: Callable[[], None],
) -> Migration:
    """Return the migration of a state that is ``parts``, one behind the other.

    ``loaded`` is called when all of them were stored; it raises ValueError for a state that cannot
    be. ``stopped`` and ``running``: see ``Migration``. ValueError for a part that no BAR has.
    """
    for part in parts:
        content = contents.get(part.bar)
        if part.length <= 0 or content is None or not content.has(part.offset, part.length):
            raise ValueError(f"{part}: the endpoint has no such bytes")

    def save() -> bytes:
        return b"".join(contents[part.bar].saved(part.offset, part.length) for part in parts)

    def load(state: bytes) -> None:
        start = 0
        for part in parts:
            contents[part.bar].load(part.offset, state[start : start + part.length])
            start += part.length
        loaded()

    size = sum(part.length for part in parts)
    return Migration(size, save, load, stopped=stopped, running=running)
