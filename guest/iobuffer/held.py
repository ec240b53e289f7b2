"""What a buffer has to give back, and how a finalizer does it when nobody else has."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from . import late
from .backing import Backing
from .errors import IOReturnError
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
    words = f"{held.record} was not released"
    try:
        _give_back(held)
    except IOReturnError as error:
        late.put_off(lambda: _give_back(held))
        words += f", and devices reach its memory still, which nobody gets: {error}"
    warnings.warn(words, ResourceWarning, stacklevel=2)


def _give_back(held: Held) -> None:
    """Take the memory from the devices, then free it. What was done is not done again."""
    while (last := held.preparations.last()) is not None:
        held.preparations.remove(last)
    held.end_track()
    held.window.close()
    held.backing.close_late()
    held.record.drop()
