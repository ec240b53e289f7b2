"""What a pool of memory for buffers can do, whatever stands behind it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Final, Protocol

from .options import CacheMode
from .ranges import RangeAllocator, align_down, align_up
from .vm import Mapping

__all__ = ["PAGE", "Extent", "Pool", "RangeAllocator", "align_down", "align_up"]

PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bus addresses; ``address`` and ``length`` in bytes, whole pages."""

    address: int
    length: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.length


class Pool(Protocol):
    """Physically contiguous, wired memory by whole pages.

    On a board another one can take the carve-out's place (for example u-dma-buf).
    """

    @property
    def name(self) -> str:
        """A short name for messages."""

    @property
    def size(self) -> int:
        """Bytes that it could ever give."""

    def allocate(self, length: int, alignment: int) -> Extent:
        """Take whole pages; both arguments are multiples of `PAGE`.

        `IONoMemoryError` when there is no such run; it says how long the longest one is.
        """

    def free(self, extent: Extent) -> None:
        """Give back what `allocate` gave; every mapping of it must be gone."""

    def map(self, extent: Extent, mode: CacheMode) -> Mapping:
        """Map an extent with just this cache mode, or raise `IOReturnError`."""

    def free_size(self) -> int:
        """Bytes that this process could still get, in all."""
