# SPDX-License-Identifier: Apache-2.0
"""The pools of this process, by name, and the choice of one for a request.

The carve-outs come first; memory that the kernel manages (huge pages, pinned pages) serves requests
that they cannot satisfy, or that name it.
"""

from __future__ import annotations

import os
from typing import Final

from dma_rehearsal.guest.iobuffer.base import deferred, holders
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IODeviceError,
    IONoMemoryError,
    IOReturn,
)
from dma_rehearsal.guest.iobuffer.memory import backing, resting_pins
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import HugePool, PageablePool, PinnedPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Pool, Request
from dma_rehearsal.guest.iobuffer.memory.zones import find_zones
from dma_rehearsal.guest.iobuffer.os import virtual_memory

# Memory for devices with few address bits is scarce: it goes only to those that need it.
RESERVED: Final = frozenset({"low"})
PREFERRED: Final = "main"


def _discover() -> dict[str, Pool]:
    zones = find_zones()
    if not zones:
        raise IODeviceError(
            "no carve-out in /sys/class/uio: load the module dma_rehearsal with its carveouts=",
            code=IOReturn.kIOReturnNotAttached,
        )
    zones.sort(key=lambda zone: zone.name != PREFERRED)
    driver = dma_platform.open_driver()
    carveouts: list[Pool] = [HeapPool(CarveoutPool(zone, driver)) for zone in zones]
    return {pool.name: pool for pool in [*carveouts, HugePool(), PinnedPool(), PageablePool()]}


def known() -> dict[str, Pool]:
    """Return all pools by name, in the order in which they are tried."""
    deferred.run_pending()
    with dma_platform.lock:
        if dma_platform.pools is None:
            dma_platform.pools = _discover()
        return dict(dma_platform.pools)


def wake() -> None:
    """End the rest of all released memory: a late DMA may find it in use again.

    Allocations do that by themselves when nothing else is left; this is for a look at the free
    memory.
    """
    for pool in known().values():
        if isinstance(pool, HeapPool):
            pool.wake()
    resting_pins.wake()


def named(name: str) -> Pool:
    """Return one pool; `IOBadArgumentError` says which there are."""
    pools = known()
    if name not in pools:
        raise IOBadArgumentError(f"no pool {name!r}; there are {', '.join(pools)}")
    return pools[name]


def take(request: Request, name: str | None) -> Backing:
    """Take memory for a request from the named pool, or from the first that can give it.

    Raises `IOBadArgumentError` for an alignment that no pool has room for, `IONoMemoryError` when
    all that could satisfy the request have no such run free, and when none could, it says of each
    why.
    """
    pools = [named(name)] if name is not None else list(known().values())
    said: list[str] = []
    asked: list[str] = []
    largest = 0
    for pool in _in_order(pools):
        refusal = pool.refuses(request)
        if not refusal and name is None and pool.name in RESERVED and request.highest is None:
            refusal = "kept for devices with few address bits: name it, or give a physical mask"
        if refusal:
            said.append(f"pool {pool.name}: {refusal}")
            continue
        asked.append(pool.name)
        try:
            return pool.take(request)
        except IONoMemoryError as error:
            said.append(error.reason)
            largest = max(largest, error.largest)
    if request.alignment > max(pool.size for pool in pools):
        sizes = ", ".join(f"{pool.name} {pool.size}" for pool in pools)
        raise IOBadArgumentError(
            f"alignment {request.alignment} is above every pool's size ({sizes})"
        )
    said.append(holders.of_pools(asked))
    for pool in pools:
        if pool.name in asked and isinstance(pool, HeapPool):
            extents = pool.extents
            if isinstance(extents, CarveoutPool) and (others := extents.held_by_others()):
                said.append(f"pool {pool.name}: {others}")
    raise IONoMemoryError(
        f"{request.capacity} bytes at alignment {request.alignment}: " + "; ".join(said),
        asked=request.capacity,
        largest=largest,
    )


def _in_order(pools: list[Pool]) -> list[Pool]:
    """Return the pools in the order in which they are tried."""
    if dma_platform.placement.highest:
        pools = sorted(pools, key=_highest, reverse=True)
    return sorted(pools, key=lambda each: each.name in RESERVED)


def _highest(pool: Pool) -> int:
    """Return where a pool's memory ends on the bus, -1 when that is the kernel's to say."""
    highest = pool.extents.highest if isinstance(pool, HeapPool) else None
    return -1 if highest is None else highest


def _after_fork_in_child() -> None:
    """The arenas are the parent's: the child gets pools of its own."""
    inherited, dma_platform.pools = dma_platform.pools, None
    for old in (inherited or {}).values():
        if isinstance(old, HeapPool):
            old.after_fork_in_child()
    backing.after_fork_in_child()
    resting_pins.wake()
    virtual_memory.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
