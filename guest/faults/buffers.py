# SPDX-License-Identifier: Apache-2.0
"""Named faults of buffers, applied from outside.

Each is a function that breaks one promise for the rest of this process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from dma_rehearsal.guest.iobuffer import (
    IOGeneralMemoryDescriptor,
    IOMemoryDescriptor,
    IOOptions,
    Task,
)
from dma_rehearsal.guest.iobuffer.base import dma_activity, holders, provenance
from dma_rehearsal.guest.iobuffer.base.errors import IONotAttachedError
from dma_rehearsal.guest.iobuffer.base.interfaces import Untouched
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.provenance import Record
from dma_rehearsal.guest.iobuffer.descriptors import buffer
from dma_rehearsal.guest.iobuffer.descriptors.buffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.buffer_resources import reclaim
from dma_rehearsal.guest.iobuffer.descriptors.coverage import Account
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.preparation import Grants, Preparations
from dma_rehearsal.guest.iobuffer.memory import resting_pins
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.memory.heap import Block, Heap
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.memory.platform import Platform
from dma_rehearsal.guest.iobuffer.memory.quarantine import Quarantine
from dma_rehearsal.guest.iobuffer.os.pin import Pin
from dma_rehearsal.guest.iobuffer.os.purgeable import Purgeable
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping

_hold = PinnableBacking._hold
_release = IOBufferMemoryDescriptor.release
_grants = Grants.__init__
_view = IOMemoryMap.view
_release_block = Heap._release
_give_back = IOBufferMemoryDescriptor._give_back


def segments_shuffled() -> None:
    """The segments of pinned memory come in the wrong order."""

    def hold(backing: PinnableBacking, pin: Any) -> None:
        _hold(backing, pin)
        backing._places.reverse()

    setattr(PinnableBacking, _hold.__name__, hold)


def ranges_reversed() -> None:
    """The ranges of a descriptor come in the wrong order."""
    in_order = IOGeneralMemoryDescriptor.withRanges

    def with_ranges(
        ranges: Sequence[tuple[int, int]], direction: int | IOOptions, task: Task
    ) -> IOMemoryDescriptor:
        return in_order(ranges[::-1], direction, task)

    setattr(IOGeneralMemoryDescriptor, in_order.__name__, staticmethod(with_ranges))


def purge_undetected() -> None:
    """Purged memory is handed back as if it were what was left there."""

    def was_purged(*_: object, **__: object) -> bool:
        return False

    setattr(Purgeable, Purgeable._was_purged.__name__, was_purged)


def double_release() -> None:
    """A second release passes in silence."""

    def release(descriptor: IOBufferMemoryDescriptor) -> None:
        try:
            _release(descriptor)
        except IONotAttachedError:
            return

    setattr(IOBufferMemoryDescriptor, _release.__name__, release)


def stale_mapping() -> None:
    """Memory stays mapped after it is unmapped."""

    def close(_mapping: Mapping) -> None:
        pass

    setattr(Mapping, close.__name__, close)


def view_without_mapping() -> None:
    """A view does not keep its mapping: the memory can go while it looks."""

    def view(mapped: IOMemoryMap) -> memoryview:
        inside = mapped._mapping
        if inside is None:
            return _view(mapped)
        start = mapped.getVirtualAddress() - inside.address
        array = (ctypes.c_ubyte * mapped.getLength()).from_address(inside.address + start)
        view = memoryview(array).cast("B")
        return view.toreadonly() if mapped.read_only else view

    setattr(IOMemoryMap, view.__name__, view)


def freed_before_withdrawn() -> None:
    """Memory is free for others while devices can still reach it."""

    close = "close"

    def give_back(descriptor: IOBufferMemoryDescriptor, backing: Backing) -> None:
        backing.close()
        setattr(backing, close, lambda: None)
        _give_back(descriptor, backing)

    setattr(IOBufferMemoryDescriptor, _give_back.__name__, give_back)


def lost_reclaim() -> None:
    """The memory of a dropped buffer never comes back."""
    close_late = "close_late"

    def forget(held: Any) -> None:
        setattr(held.backing, close_late, lambda: None)
        reclaim(held)

    setattr(buffer, reclaim.__name__, forget)


def release_in_flight() -> None:
    """Nothing asks the devices whether their DMA is over."""

    def in_flight(_segments: object) -> list[str]:
        return []

    setattr(dma_activity, in_flight.__name__, in_flight)


def grants_both_ways() -> None:
    """prepare() lets a device read and write, whatever the direction."""

    def init(grants: Grants, segments: Any, _direction: IODirection) -> None:
        _grants(grants, segments, IODirection.kIODirectionInOut)

    setattr(Grants, _grants.__name__, init)


def grants_outlive() -> None:
    """Grants made by prepare() are never withdrawn."""

    def withdraw(_grants: Grants) -> None:
        pass

    setattr(Grants, withdraw.__name__, withdraw)


def grants_of_the_dead() -> None:
    """A killed process's grants stay when its memory goes to another process."""

    def reclaim(_platform: Platform) -> None:
        pass

    setattr(Platform, Platform.reclaim_grants.__name__, reclaim)


def writable_after_out() -> None:
    """Memory wired for reading is prepared for writing as well."""

    def check(_preparations: Preparations, _direction: IODirection) -> None:
        pass

    setattr(Preparations, check.__name__, check)


def blocks_anywhere() -> None:
    """Nothing checks where an allocation is called from."""

    def check_may_block(_what: str) -> None:
        pass

    setattr(buffer, check_may_block.__name__, check_may_block)


def no_quarantine() -> None:
    """Released memory does not rest: the next allocation gets it."""

    def add(_quarantine: Quarantine, start: int, size: int) -> list[tuple[int, int]]:
        return [(start, size)]

    def release(heap: Heap, block: Block) -> None:
        _release_block(heap, block)
        while heap._resting:
            heap._wake()

    setattr(Quarantine, add.__name__, add)
    setattr(Heap, Heap._release.__name__, release)
    setattr(resting_pins, resting_pins.rest.__name__, Pin.close)


def lines_forgotten() -> None:
    """The source line that makes a descriptor is not recorded."""

    def here(_start: object) -> str:
        return "a line that nobody knows"

    setattr(provenance, provenance._here.__name__, here)


def drop_unnoticed() -> None:
    """A buffer dropped without release() is not reported."""

    def drop(_record: Record) -> None:
        pass

    setattr(Record, drop.__name__, drop)


def untouched_unseen() -> None:
    """Bytes that no DMA touched count as touched."""

    def missing(_account: Account) -> Untouched:
        return Untouched(0, 0)

    setattr(Account, missing.__name__, missing)


def holders_unnamed() -> None:
    """A failed allocation does not name the holders of the memory."""

    def of_pools(_names: object) -> str:
        return "held by others"

    setattr(holders, of_pools.__name__, of_pools)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "allocator-segments-shuffled": segments_shuffled,
    "allocator-ranges-reversed": ranges_reversed,
    "allocator-purge-undetected": purge_undetected,
    "allocator-double-release": double_release,
    "allocator-stale-mapping": stale_mapping,
    "allocator-view-without-mapping": view_without_mapping,
    "allocator-freed-before-withdrawn": freed_before_withdrawn,
    "allocator-lost-reclaim": lost_reclaim,
    "allocator-release-in-flight": release_in_flight,
    "allocator-grants-both-ways": grants_both_ways,
    "allocator-grants-outlive": grants_outlive,
    "allocator-grants-of-the-dead": grants_of_the_dead,
    "allocator-writable-after-out": writable_after_out,
    "allocator-blocks-anywhere": blocks_anywhere,
    "allocator-no-quarantine": no_quarantine,
    "allocator-lines-forgotten": lines_forgotten,
    "allocator-drop-unnoticed": drop_unnoticed,
    "allocator-untouched-unseen": untouched_unseen,
    "allocator-holders-unnamed": holders_unnamed,
}
