# SPDX-License-Identifier: Apache-2.0
"""The carve-outs of the kernel module as pools, shared by the processes of a guest.

Each zone is cut into arenas. A process locks the arenas that it allocates from, by byte ranges of
the zone's lock file (one byte a page), and gives back those that are empty. The locks belong to
the open file (fcntl(2), "Open file description locks"), so those of a dead process are gone, and
only after its mappings: nobody else can be given memory that it still sees.

Memory that several processes use is a `Claim`: pages with a lock, and an open file, of their own.
Its descriptor is passed to the others, and the last one that closes it gives the pages back.

Memory that is given back rests (`quarantine`). An arena that is empty goes back all the same; the
ranges that rest in it are locked in a second file, which the next user of the arena heeds as long
as it can.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base import holders
from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IONoMemoryError, IOReturn
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, RangeAllocator, align_down, align_up
from dma_rehearsal.guest.iobuffer.memory.page_locks import PageLocks
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.quarantine import Quarantine, more_and_more
from dma_rehearsal.guest.iobuffer.memory.zones import ARENAS_PER_ZONE, Zone
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement

LOCKS: Final = Path("/run/dma-rehearsal")


class Claim:
    """Pages of a carve-out with an open file of their own, which can be passed on.

    ``fd`` is that file's descriptor. The pages are free again when the last copy of it is closed.
    """

    def __init__(
        self, extent: Extent, locks: PageLocks, rest: Callable[[Extent], None] | None = None
    ) -> None:
        """``rest`` lets the pages rest before they are free."""
        self.extent = extent
        self._locks = locks
        self._rest = rest

    @property
    def fd(self) -> int:
        """The descriptor to pass on."""
        return self._locks.fd

    def close(self) -> None:
        """Let go of the pages; every mapping of them that this process has must be gone."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest(self.extent)
        self._locks.close()


class CarveoutPool:
    """One carve-out as an `ExtentPool`. Not locked against threads: its heap is."""

    def __init__(self, zone: Zone, driver: Driver | None = None, locks: Path = LOCKS) -> None:
        self.zone = zone
        self._driver = driver
        self._arena = zone.arena_size
        self._path = locks / f"{zone.name}.lock"
        self._pages = zone.size // PAGE
        self._locks = PageLocks(self._path, self._pages)
        self._held: set[int] = set()
        self._parked: int | None = None  # of those held: empty, known, and any process's to lock
        self._parked_by = dma_platform.placement  # the policy that chose it
        self._ranges = RangeAllocator()  # over the arenas held, in bus addresses
        self._used: Counter[int] = Counter()  # bytes handed out of each arena
        self._resting = Quarantine(zone.size // 2)
        self._marks = PageLocks(locks / f"{zone.name}.rest.lock", self._pages)
        self._marked: set[int] = set()  # the starts of resting ranges that are locked there
        self._unmarked: dict[int, int] = {}  # resting ranges that are not, as start -> size
        self._late: deque[Extent] = deque()  # claims that a finalizer may have given back
        self._pid = os.getpid()
        self._closed = False

    @property
    def name(self) -> str:
        """The zone's name."""
        return self.zone.name

    @property
    def size(self) -> int:
        """The zone's size in bytes."""
        return self.zone.size

    @property
    def highest(self) -> int:
        """The zone's last bus address."""
        return self.zone.start + self.zone.size - 1

    def allocate(self, length: int, alignment: int) -> Extent:
        """Take whole pages, from arenas held if possible, else from further ones."""
        parked = self._unpark(length)
        try:
            return self._take(length, alignment)
        finally:
            if parked is not None and not self._used[parked]:
                self._give_back(parked)

    def _take(self, length: int, alignment: int) -> Extent:
        for heed in self._attempts(length, lambda: (size for _, size in self._candidates())):
            place = self._allocate(length, alignment, heed=heed)
            if place is not None:
                for index, size in self._shares(place, length):
                    self._used[index] += size
                return Extent(place, length)
        raise self._no_memory(length, alignment, (size for _, size in self._candidates()))

    def _allocate(self, length: int, alignment: int, *, heed: bool) -> int | None:
        # Another process can lock an arena between the look and the lock; each time that happens
        # somebody makes progress, and there are only so many arenas.
        for _ in range(2 * ARENAS_PER_ZONE):
            highest = dma_platform.placement.highest
            start = self._ranges.allocate(length, alignment, highest=highest)
            if start is not None:
                return start
            place = self._place(length, alignment, heed=heed)
            if place is None:
                return None
            if self._grow(place, length, heed=heed) and self._ranges.allocate_at(place, length):
                return place
        return None

    def claim(self, length: int, alignment: int) -> Claim:
        """Take whole pages that can be passed to other processes; errors as for `allocate`.

        They come from the zone's end, where they cut up the fewest arenas.
        """
        locks = PageLocks(self._path, self._pages)
        for heed in self._attempts(length, lambda: _bytes(locks.available())):
            # Another process can lock pages between the look and the lock: somebody makes progress.
            for _ in range(2 * ARENAS_PER_ZONE):
                free = RangeAllocator()
                for first, count in locks.available():
                    free.add(self.zone.start + first * PAGE, count * PAGE)
                self._without_resting(free, heed=heed)
                places = [
                    place
                    for start, size in free.runs()
                    if start <= (place := align_down(start + size - length, alignment))
                ]
                if not places:
                    break
                if locks.acquire(*self._pages_of(places[-1], length)):
                    dma_platform.reclaim_grants()
                    return Claim(Extent(places[-1], length), locks, self._rest_claim)
        sizes = list(_bytes(locks.available()))
        locks.close()
        raise self._no_memory(length, alignment, sizes)

    def adopt(self, fd: int, extent: Extent) -> Claim:
        """Take over a claim that another process passed on; ``fd`` is ours from now on.

        `IODeviceError` (kIOReturnBadArgument) when nobody has locked these pages.
        """
        first = (extent.address - self.zone.start) // PAGE
        inside = (
            self.zone.start <= extent.address
            and extent.length >= PAGE
            and extent.end <= self.zone.start + self.zone.size
            and not (extent.address | extent.length) % PAGE
        )
        locks = PageLocks.adopt(fd, self._path, self._pages)
        if not inside or not self._locks.held_by_another(first, extent.length // PAGE):
            locks.close()
            raise IODeviceError(
                f"pool {self.name}: nobody has claimed {extent.length} bytes at "
                f"{extent.address:#x}",
                code=IOReturn.kIOReturnBadArgument,
                address=extent.address,
                length=extent.length,
            )
        return Claim(extent, locks, self._rest_claim)

    def free(self, extent: Extent) -> None:
        """Give back an extent, which rests then, and the arenas that are empty."""
        length = self._ranges.forget(extent.address)
        self._rest(extent.address, length)
        for index, size in self._shares(extent.address, length):
            self._used[index] -= size
            if not self._used[index]:
                self._give_back(index)

    def held_anyway(self, extents: Sequence[Extent]) -> list[bool]:
        """Whether more than all of them is handed out of each arena that one lies in."""
        shares: Counter[int] = Counter()
        for each in extents:
            for index, size in self._shares(each.address, each.length):
                shares[index] += size
        return [
            all(
                self._used[index] > shares[index]
                for index in self._arenas(each.address, each.length)
            )
            for each in extents
        ]

    def wake(self) -> None:
        """End the rest of all that was given back here."""
        self._take_late()
        self._wake(self._resting.wake(len(self._resting)))

    def map(self, extent: Extent, mode: CacheMode, placement: MapPlacement = ANYWHERE) -> Mapping:
        """Map an extent through the driver, see `Driver.map`."""
        return self._module().map(extent.address, extent.length, mode, placement)

    def kernel_map(self, extent: Extent, mode: CacheMode) -> KernelMap:
        """Have the kernel map an extent, see `Driver.kernel_map`."""
        return self._module().kernel_map(extent.address, extent.length, mode)

    def free_size(self) -> int:
        """Bytes free in the arenas held and in those that nobody holds, also if they rest."""
        self._forget_parked()
        return sum(size for _, size in self._candidates())

    def held_by_others(self) -> str:
        """Say how many bytes other processes have, and which processes, as far as that shows."""
        pages = self._pages - sum(count for _, count in self._locks.available())
        return holders.of_others(self._path, pages * PAGE)

    def close(self) -> None:
        """Let go of the lock files."""
        self._closed = True
        self._locks.close()
        self._marks.close()

    def _module(self) -> Driver:
        if self._driver is None:
            raise IODeviceError(
                f"pool {self.name} has no driver", code=IOReturn.kIOReturnNotAttached
            )
        return self._driver

    def _no_memory(self, length: int, alignment: int, sizes: Iterable[int]) -> IONoMemoryError:
        largest = max(sizes, default=0)
        return IONoMemoryError(
            f"pool {self.name}: {length} bytes at alignment {alignment} asked, "
            f"the largest free run is {largest} of {self.size} bytes",
            asked=length,
            largest=largest,
        )

    def _lock_range(self, index: int) -> tuple[int, int]:
        start, size = self._bounds(index)
        return (start - self.zone.start) // PAGE, size // PAGE

    def _arenas(self, address: int, length: int) -> range:
        offset = address - self.zone.start
        return range(offset // self._arena, -(-(offset + length) // self._arena))

    def _bounds(self, index: int) -> tuple[int, int]:
        offset = index * self._arena
        return self.zone.start + offset, min(self._arena, self.zone.size - offset)

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Yield the runs (address, size) that are free here, or could be once locked or woken."""
        merged = self._lockable()
        for start, size in self._resting:
            for part in self._held_parts(start, size):
                merged.add(*part)
        yield from merged.runs()

    def _lockable(self) -> RangeAllocator:
        """Return the ranges that are free and do not rest, and the arenas that can be locked."""
        merged = RangeAllocator()
        for start, size in self._ranges.runs():
            merged.add(start, size)
        for first, count in self._locks.available():
            for start, size in self._whole_arenas(first * PAGE, (first + count) * PAGE):
                merged.add(start, size)
        return merged

    def _whole_arenas(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (address, size) of the arenas within a part of the zone, but for those held.

        Where the part begins or ends inside of an arena, somebody has a claim there.
        """
        at = -(-offset // self._arena)
        last = end // self._arena if end < self.zone.size else -(-end // self._arena)
        for index in (*sorted(each for each in self._held if at <= each < last), last):
            if at < index:
                start = at * self._arena
                yield self.zone.start + start, min(index * self._arena, self.zone.size) - start
            at = index + 1

    def _place(self, length: int, alignment: int, *, heed: bool) -> int | None:
        """Find the address that needs the fewest further arenas, or the highest; not one that
        rests.

        ``heed``: nor one that rests in another process.
        """
        best: tuple[int, int, int] | None = None
        highest: int | None = None
        candidates = self._lockable()
        self._without_resting(candidates, heed=heed)
        for start, size in candidates.runs():
            last = align_down(start + size - length, alignment)
            if start <= last:
                highest = last
            # At the run's end an arena less may be needed, when the held part is there.
            for place in {align_up(start, alignment), last}:
                if start <= place and place + length <= start + size:
                    new = sum(i not in self._held for i in self._arenas(place, length))
                    best = min(best or (new, size, place), (new, size, place))
        if dma_platform.placement.highest:
            return highest
        return None if best is None else best[2]

    def _grow(self, place: int, length: int, *, heed: bool) -> bool:
        taken: list[int] = []
        for index in self._arenas(place, length):
            if index in self._held:
                continue
            if not self._locks.acquire(*self._lock_range(index)):
                for other in taken:
                    self._locks.release(*self._lock_range(other))
                return False
            taken.append(index)
        if taken:
            dma_platform.reclaim_grants()
        for index in taken:
            self._held.add(index)
            start, size = self._bounds(index)
            self._ranges.add(start, size)
            for each in list(self._resting.within(start, size)):
                self._ranges.exclude(*each)
            if heed:
                self._heed_others(start, size)
        return True

    def _heed_others(self, start: int, size: int) -> None:
        """Have the ranges of a held arena that rest in other processes rest here, too."""
        for each in self._others_resting(start, size):
            for part in self._ranges.exclude(*each):
                self._rest(*part)

    def _give_back(self, index: int) -> None:
        """Let other processes have an arena of which nothing is handed out.

        Ranges that rest in it are marked. Its record is kept: it is the next to be taken again.
        """
        self._forget_parked()
        start, size = self._bounds(index)
        for first, length in list(self._unmarked.items()):
            if first < start + size and start < first + length:
                self._mark(first, length)
        self._locks.release(*self._lock_range(index))
        self._parked, self._parked_by = index, dma_platform.placement

    def _unpark(self, length: int) -> int | None:
        """Lock the arena that was given back last, for ``length`` bytes; return it.

        It is forgotten, and None returned, when another process has a part of it, when it is too
        small, and when another policy of placement is in use by now.
        """
        self._take_late()
        index = self._parked
        if index is None:
            return None
        fits = length <= self._bounds(index)[1] and self._parked_by is dma_platform.placement
        if not fits or not self._locks.acquire(*self._lock_range(index)):
            self._forget_parked()
            return None
        self._parked = None
        dma_platform.reclaim_grants()
        self._heed_others(*self._bounds(index))
        return index

    def _forget_parked(self) -> None:
        index, self._parked = self._parked, None
        if index is not None:
            self._ranges.exclude(*self._bounds(index))
            del self._used[index]
            self._held.discard(index)

    # Resting ranges.

    def _attempts(self, length: int, sizes: Callable[[], Iterable[int]]) -> Iterator[bool]:
        """Yield before each try of an allocation whether it spares ranges that rest elsewhere.

        More of the ranges that rest here are woken each time, the oldest first; none when that
        would be in vain, by the ``sizes`` that could be had.
        """
        self._take_late()
        yield True
        if max(sizes(), default=0) < length:
            return
        for count in more_and_more(self._resting):
            self._wake(self._resting.wake(count))
            yield True
        yield False

    def _rest(self, start: int, size: int) -> None:
        self._unmarked[start] = size
        self._wake(self._resting.add(start, size))

    def _wake(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Free the ranges whose rest is over."""
        for start, size in ranges:
            self._unmarked.pop(start, None)
            if start in self._marked:
                self._marked.discard(start)
                self._marks.release(*self._pages_of(start, size))
            for part in self._held_parts(start, size):
                self._ranges.add(*part)

    def _mark(self, start: int, size: int) -> None:
        """Tell other processes that a range rests, unless one of them has told that already."""
        if start not in self._marked and self._marks.acquire(*self._pages_of(start, size)):
            self._marked.add(start)
            self._unmarked.pop(start, None)

    def _rest_claim(self, extent: Extent) -> None:
        """Let a claim's pages rest; this may come in the midst of another call."""
        if not self._closed and os.getpid() == self._pid:  # a forked child has our locks, too
            self._mark(extent.address, extent.length)
            self._late.append(extent)

    def _take_late(self) -> None:
        if self._late:
            self._forget_parked()  # which may have been anybody's claim meanwhile
        while self._late:
            start, end = self._late[0].address, self._late.popleft().end
            # Two descriptors of one claim may be closed here, one after the other.
            for first, size in list(self._resting.within(start, end - start)):
                start, end = min(start, first), max(end, first + size)
            for first, _ in self._resting.wake_within(start, end - start):
                self._marked.discard(first)
                self._unmarked.pop(first, None)
            self._wake(self._resting.add(start, end - start))
            self._marked.add(start)

    def _without_resting(self, free: RangeAllocator, *, heed: bool) -> None:
        for each in self._resting:
            free.exclude(*each)
        for each in self._others_resting(self.zone.start, self.zone.size) if heed else ():
            free.exclude(*each)

    def _others_resting(self, start: int, size: int) -> list[tuple[int, int]]:
        """Return the ranges of a part of the zone that rest in other processes."""
        at = start
        resting: list[tuple[int, int]] = []
        for first, count in self._marks.available(*self._pages_of(start, size)):
            free = self.zone.start + first * PAGE
            if at < min(free, start + size):
                resting.append((at, min(free, start + size) - at))
            at = max(at, free + count * PAGE)
        if at < start + size:
            resting.append((at, start + size - at))
        return resting

    def _held_parts(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that are in arenas held."""
        for index in self._arenas(start, size):
            if index in self._held:
                first, length = self._bounds(index)
                low, high = max(start, first), min(start + size, first + length)
                yield low, high - low

    def _shares(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield how many bytes of a range are in which arena."""
        for index in self._arenas(address, length):
            start, size = self._bounds(index)
            yield index, min(address + length, start + size) - max(address, start)

    def _pages_of(self, address: int, length: int) -> tuple[int, int]:
        """Return the first page of a range and the number of its pages: locks are on pages."""
        return (address - self.zone.start) // PAGE, length // PAGE


def _bytes(runs: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Yield the bytes of runs (first page, pages)."""
    return (count * PAGE for _, count in runs)
