# SPDX-License-Identifier: Apache-2.0
"""The saved state of an endpoint: some bytes of its BARs, which the author lists.

    state = (StatePart(bar=1, offset=0, length=0x3000), StatePart(bar=0, offset=0, length=8))

Named timers, if the endpoint has any, come behind that (`SavedTimers`).
Configuration space is not a part of it: QEMU, which emulates most of it, carries that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dma_rehearsal.device.endpoints.bar_content import BarContent
from dma_rehearsal.device.endpoints.saved_timers import SavedTimers
from dma_rehearsal.device.vfio_user.migration import Migration
from dma_rehearsal.device.vfio_user.timers import Timers


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
    timers: Callable[[], Timers],
    names: Sequence[str],
    drain: Callable[[], bool],
    loaded: Callable[[], None],
    stopped: Callable[[], None],
    running: Callable[[], None],
) -> Migration:
    """Return the migration of a state that is ``parts``, and the timers with ``names``.

    ``loaded`` is called when all of them were stored; it raises ValueError for a state that cannot
    be. ``drain``, ``stopped`` and ``running``: see ``Migration``. ValueError for a part that no
    BAR has.
    """
    for part in parts:
        content = contents.get(part.bar)
        if part.length <= 0 or content is None or not content.has(part.offset, part.length):
            raise ValueError(f"{part}: the endpoint has no such bytes")

    size = sum(part.length for part in parts)
    saved_timers = SavedTimers(timers, names, ", ".join(map(str, parts)))

    def save() -> bytes:
        saved = [contents[part.bar].saved(part.offset, part.length) for part in parts]
        return b"".join([*saved, saved_timers.save()])

    def load(state: bytes) -> None:
        left = saved_timers.parse(state[size:])
        start = 0
        for part in parts:
            contents[part.bar].load(part.offset, state[start : start + part.length])
            start += part.length
        saved_timers.load(left)
        loaded()

    whole = size + saved_timers.size
    return Migration(whole, save, load, stopped=stopped, running=running, drain=drain)
