# SPDX-License-Identifier: Apache-2.0
"""Carve-out pages that several processes, or the kernel, share: the memory behind such a buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.memory.backing import (
    CARVE_OUT,
    Backing,
    Share,
    forsaken_after_fork,
)
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool, Claim
from dma_rehearsal.guest.iobuffer.memory.pool import whole_pages
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement


class ClaimBacking(Backing):
    """Pages of a carve-out that belong to the holders of one claim. Always wired."""

    def __init__(
        self, pool: CarveoutPool, claim: Claim, mode: CacheMode, *, mapped: bool, clean: bool
    ) -> None:
        """``clean``: fill with zeros, as a new buffer must be. The claim is ours even on errors."""
        self._pool, self._claim = pool, claim
        self.pool = pool.name
        self.size = claim.extent.length
        self.mode = mode
        forsaken_after_fork(self)
        try:
            if mapped:
                self.mapping = pool.map(claim.extent, mode)
                if clean:
                    self.mapping.zero(0, self.size)
            elif clean:
                with pool.kernel_map(claim.extent, mode) as window:
                    window.write(0, bytes(self.size))
        except BaseException:
            self.close()
            raise

    def wire(self) -> None:
        """Do nothing."""

    def unwire(self) -> None:
        """Do nothing."""

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield the one segment."""
        yield self._claim.extent.address + offset, length

    def map(
        self, offset: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> tuple[Mapping, int]:
        """Map through the pool: another cache mode is refused there."""
        extent, skip = whole_pages(self._claim.extent.address + offset, length)
        return self._pool.map(extent, mode, placement), skip

    def lend_kernel_map(self) -> tuple[KernelMap, Callable[[], None]]:
        """Lend the buffer's own: it lasts as long as the claim, so nobody needs another one."""
        return self.make_kernel_map(), _nothing

    def _mapped_by_kernel(self) -> KernelMap:
        return self._pool.kernel_map(self._claim.extent, self.mode)

    def share(self) -> Share:
        """Pass the claim on."""
        extent = self._claim.extent
        return Share(
            CARVE_OUT, self.pool, extent.address, extent.length, self.mode, (self._claim.fd,)
        )

    def close(self) -> None:
        """Unmap, and let go of the claim."""
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None
        self.forsake()

    def forsake(self) -> None:
        """Let go of the claim, and of the kernel's mapping."""
        if self.kernel_map is not None:
            self.kernel_map.close()
            self.kernel_map = None
        self._claim.close()


def _nothing() -> None:
    """End nothing: the buffer's own mapping ends with the buffer."""
