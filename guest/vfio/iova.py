"""Bus addresses behind an IOMMU: which of them are free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from iobuffer.errors import IOBadArgumentError, IONoMemoryError
from iobuffer.ranges import RangeAllocator, align_down, align_up

# Left alone, so that address 0, and what a driver with a bug makes of it, is never mapped.
LOWEST: Final = 1 << 20


class IovaAllocator:
    """Hands out bus addresses of ``ranges`` (first, last), in pages of ``page`` bytes.

    All sizes are in bytes.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], page: int) -> None:
        self.page = page
        self._free = RangeAllocator()
        for first, last in ranges:
            start = align_up(max(first, LOWEST), page)
            end = align_down(last + 1, page)
            if start < end:
                self._free.add(start, end - start)

    def allocate(self, length: int, alignment: int = 1, *, bits: int = 64) -> int:
        """Return an address for ``length`` bytes at a multiple of ``alignment``: the lowest free.

        ``bits``: what the device drives of an address. `IOBadArgumentError` for a length or an
        alignment that is none; `IONoMemoryError` when nothing is free there.
        """
        size = self._pages(length)
        if alignment <= 0 or alignment & (alignment - 1):
            raise IOBadArgumentError(f"alignment {alignment}: a power of two, at least 1")
        largest = 0
        for start, room in self._free.runs():
            room = min(start + room, 1 << bits) - start
            largest = max(largest, room)
            place = align_up(start, max(alignment, self.page))
            if place + size <= start + room:
                self._free.allocate_at(place, size)
                return place
        raise IONoMemoryError(
            f"{length} bytes of bus addresses at alignment {alignment} below 2**{bits}: the "
            f"largest free run is {largest}",
            asked=length,
            largest=largest,
        )

    def take(self, address: int, length: int) -> None:
        """Take just these addresses; `IOBadArgumentError` when they are not free, or no pages."""
        if address % self.page:
            raise IOBadArgumentError(
                f"bus address {address:#x} is no multiple of {self.page}", address=address
            )
        if not self._free.allocate_at(address, self._pages(length)):
            raise IOBadArgumentError(
                f"{length} bytes at bus address {address:#x} are in use, or the IOMMU cannot "
                "translate them",
                address=address,
                length=length,
            )

    def reserve(self, address: int, length: int) -> None:
        """Take what is free of a range out for good: it means something else on the bus."""
        start = align_down(address, self.page)
        end = align_up(address + length, self.page)
        for first, size in list(self._free.runs()):
            low, high = max(first, start), min(first + size, end)
            if low < high:
                self._free.discard(low, high - low)

    def free(self, address: int) -> None:
        """Give back what starts at ``address``; `IOBadArgumentError` when nothing does."""
        self._free.free(address)

    def _pages(self, length: int) -> int:
        if length <= 0:
            raise IOBadArgumentError(f"length {length}: at least 1 byte", length=length)
        return align_up(length, self.page)
