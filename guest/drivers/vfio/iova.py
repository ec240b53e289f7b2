# SPDX-License-Identifier: Apache-2.0
"""Bus addresses behind an IOMMU: which of them are free.

A freed address rests (`iobuffer.memory.quarantine`), so that a late DMA finds nothing mapped there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IONoMemoryError
from dma_rehearsal.guest.iobuffer.base.ranges import align_down, align_up
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.quarantine import RestingRanges

# Never mapped, so that address 0 and small offsets from it always fault.
LOWEST: Final = 1 << 20


class IovaAllocator:
    """Allocates bus addresses of ``ranges`` (first, last), in pages of ``page`` bytes.

    All sizes are in bytes. Threads may share it, and a finalizer may free at any moment.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], page: int) -> None:
        self.page = page
        self._lock = threading.Lock()
        self._late: deque[tuple[int, bool]] = deque()  # address, whether it rests
        self._free = RestingRanges()
        for first, last in ranges:
            start = align_up(max(first, LOWEST), page)
            end = align_down(last + 1, page)
            if start < end:
                self._free.add(start, end - start)

    def allocate(self, length: int, alignment: int = 1, *, bits: int = 64) -> int:
        """Return an address for ``length`` bytes at a multiple of ``alignment``.

        `Platform.placement` chooses it: by default the lowest. ``bits``: the address bits
        that the device drives. `IOBadArgumentError` for an invalid length or alignment;
        `IONoMemoryError` when no such address is free.
        """
        size = self._pages(length)
        if alignment <= 0 or alignment & (alignment - 1):
            raise IOBadArgumentError(f"alignment {alignment}: a power of two, at least 1")
        with self._locked():
            for _ in self._free.wake_some():
                free = _below(bits, self._free.rested())
                place = dma_platform.placement.bus_address(free, size, max(alignment, self.page))
                if place is not None:
                    self._free.allocate_at(place, size)
                    return place
        largest = self.largest(bits)
        raise IONoMemoryError(
            f"{length} bytes of bus addresses at alignment {alignment} below 2**{bits}: the "
            f"largest free run is {largest}",
            asked=length,
            largest=largest,
        )

    def take(self, address: int, length: int) -> None:
        """Take exactly these addresses, even if they rest.

        `IOBadArgumentError` when they are not free, or not whole pages.
        """
        if address % self.page:
            raise IOBadArgumentError(
                f"bus address {address:#x} is not a multiple of {self.page}", address=address
            )
        with self._locked():
            taken = self._free.allocate_at(address, self._pages(length))
        if not taken:
            raise IOBadArgumentError(
                f"{length} bytes at bus address {address:#x} are in use, or beyond what the IOMMU "
                "translates or the device drives",
                address=address,
                length=length,
            )

    def reserve(self, address: int, length: int) -> None:
        """Remove the free part of a range for good: on the bus it means something else."""
        start = align_down(address, self.page)
        end = align_up(address + length, self.page)
        with self._locked():
            self._free.discard(start, end - start)

    def narrow(self, bits: int) -> None:
        """Remove all free addresses from 2**``bits`` on for good: no device drives them."""
        with self._locked():
            for first, size in list(self._free.runs()):
                low = max(first, 1 << bits)
                if low < first + size:
                    self._free.discard(low, first + size - low)

    def largest(self, bits: int = 64) -> int:
        """Return the bytes of the longest free run below 2**``bits``; 0 when nothing is free."""
        with self._locked():
            return max((room for _, room in _below(bits, self._free.runs())), default=0)

    def last_page(self) -> int:
        """Return the highest address at which a page is free; `IONoMemoryError` without one."""
        with self._locked():
            ends = [start + room for start, room in self._free.runs()]
        if not ends:
            raise IONoMemoryError("no bus address is free", asked=self.page, largest=0)
        return ends[-1] - self.page

    def free(self, address: int, *, used: bool = True) -> None:
        """Give back the range at ``address``; `IOBadArgumentError` when none starts there.

        It rests if it was ``used``, so that a device could know it.
        """
        self._late.append((address, used))
        # A finalizer may interrupt another call; the next call then does it.
        if self._lock.acquire(blocking=False):
            try:
                self._take_late()
            finally:
                self._lock.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            self._take_late()
            yield

    def _take_late(self) -> None:
        while self._late:
            address, used = self._late.popleft()
            self._free.free(address, rest=used)

    def _pages(self, length: int) -> int:
        if length <= 0:
            raise IOBadArgumentError(f"length {length}: at least 1 byte", length=length)
        return align_up(length, self.page)


def _below(bits: int, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of runs (start, bytes) that are below 2**``bits``."""
    for start, room in runs:
        if start < 1 << bits:
            yield start, min(start + room, 1 << bits) - start
