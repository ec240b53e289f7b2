"""What a buffer has to give back, and how a finalizer does it when nobody else has."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from .backing import Backing
from .mapper import BusWindow
from .preparation import Preparations
from .provenance import Record


@dataclass(slots=True)
class Held:
    """What a descriptor has to give back; a finalizer does it when nobody else has."""

    backing: Backing
    window: BusWindow
    preparations: Preparations
    pid: int
    record: Record
    untrack: Callable[[], None] | None = None

    def end_track(self) -> None:
        """Tell what maintains the caches that the mapping ends, if it was told of it."""
        untrack, self.untrack = self.untrack, None
        if untrack is not None:
            untrack()


def reclaim(held: Held) -> None:
    """Free the memory of a descriptor that was dropped without release()."""
    if os.getpid() != held.pid:
        return  # a forked child: the memory is its parent's
    while (last := held.preparations.last()) is not None:
        held.preparations.remove(last)
    held.end_track()
    held.window.close()
    held.backing.close_late()
    held.record.drop()
    warnings.warn(f"{held.record} was not released", ResourceWarning, stacklevel=2)
