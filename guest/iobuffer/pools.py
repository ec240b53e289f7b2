"""The pools of this process, by name; made from the kernel module's zones when first asked for."""

from __future__ import annotations

import os
import threading
from typing import Final

from . import vm
from .carveout import CarveoutPool, find_zones
from .driver import Driver
from .errors import IOBadArgumentError, IODeviceError, IOReturn
from .heap import Heap
from .pool import Pool

# Memory for devices with few address bits is scarce: it is given only to those who name it.
BY_NAME_ONLY: Final = frozenset({"low"})
PREFERRED: Final = "main"

_lock = threading.Lock()
_heaps: dict[str, Heap] | None = None


def _discover() -> dict[str, Heap]:
    zones = find_zones()
    if not zones:
        raise IODeviceError(
            "no carve-out in /sys/class/uio: load the module dma_rehearsal with its carveouts=",
            code=IOReturn.kIOReturnNotAttached,
        )
    driver = Driver()
    return {zone.name: Heap(CarveoutPool(zone, driver)) for zone in zones}


def heaps() -> dict[str, Heap]:
    """Return all heaps by their pool's name, in the order in which they are tried."""
    global _heaps
    with _lock:
        if _heaps is None:
            found = _discover()
            _heaps = dict(sorted(found.items(), key=lambda item: item[0] != PREFERRED))
        return dict(_heaps)


def use(*pools: Pool) -> None:
    """Take these pools, in this order, in place of the kernel module's (on a board, or in tests).

    What was allocated before stays valid. Without arguments: discover again.
    """
    global _heaps
    with _lock:
        _heaps = {pool.name: Heap(pool) for pool in pools} or None


def choose(name: str | None) -> list[Heap]:
    """Return the heaps to try: the named one, or all that may be used without being named."""
    known = heaps()
    if name is None:
        return [heap for key, heap in known.items() if key not in BY_NAME_ONLY]
    if name not in known:
        raise IOBadArgumentError(f"no pool {name!r}; there are {', '.join(known)}")
    return [known[name]]


def _after_fork_in_child() -> None:
    """The arenas are the parent's: the child gets pools of its own."""
    global _heaps, _lock
    inherited, _heaps = _heaps, None
    _lock = threading.Lock()
    for old in (inherited or {}).values():
        if isinstance(old.pool, CarveoutPool):
            old.pool.close()
    vm.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
