# SPDX-License-Identifier: Apache-2.0
"""Protocols of pools: extents of bus addresses, and the request that a pool answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_down, align_up
from dma_rehearsal.guest.iobuffer.memory.backing import Backing
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bus addresses; ``address`` and ``length`` in bytes, whole pages."""

    address: int
    length: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.length


def whole_pages(address: int, length: int) -> tuple[Extent, int]:
    """Return the pages that hold a range, and where it begins in them."""
    start = align_down(address, PAGE)
    return Extent(start, align_up(address + length, PAGE) - start), address - start


class ExtentPool(Protocol):
    """Physically contiguous, wired memory by whole pages.

    On a board another one can take the carve-out's place (for example u-dma-buf).
    """

    @property
    def name(self) -> str:
        """A short name for messages."""

    @property
    def size(self) -> int:
        """Bytes that it could ever give."""

    @property
    def highest(self) -> int | None:
        """The last bus address that it could give; None: not known beforehand."""

    def allocate(self, length: int, alignment: int) -> Extent:
        """Take whole pages; both arguments are multiples of `PAGE`.

        `IONoMemoryError` without such a run; it gives the length of the longest one.
        """

    def free(self, extent: Extent) -> None:
        """Give back what `allocate` gave, to rest; every mapping of it must be gone."""

    def held_anyway(self, extents: Sequence[Extent]) -> list[bool]:
        """Whether, if all of them were given back, each would leave others no more memory."""

    def wake(self) -> None:
        """End the rest of all that was given back."""

    def map(self, extent: Extent, mode: CacheMode, placement: MapPlacement = ANYWHERE) -> Mapping:
        """Map an extent with just this cache mode, or raise `IOReturnError`."""

    def free_size(self) -> int:
        """Bytes that this process could still get, in all."""


@dataclass(frozen=True, slots=True)
class Request:
    """The requirements of a buffer on its memory. Sizes in bytes.

    ``alignment`` is the effective one; ``pages``: on pages of its own. ``shared``: other tasks, or
    the kernel, will use it as well. ``mapped``: into this process at once. ``highest`` is the
    last bus address that may be used, None for any.
    """

    capacity: int
    alignment: int = 1
    mode: CacheMode = CacheMode.COPYBACK
    pages: bool = False
    contiguous: bool = False
    pageable: bool = False
    purgeable: bool = False
    shared: bool = False
    mapped: bool = True
    highest: int | None = None


class Pool(Protocol):
    """A source of buffers."""

    @property
    def name(self) -> str:
        """A short name for messages, and for ``pool=``."""

    @property
    def size(self) -> int:
        """Bytes that it could ever give."""

    def refuses(self, request: Request) -> str:
        """Say why it cannot satisfy a request whatever is free, "" when it can."""

    def take(self, request: Request) -> Backing:
        """Take zeroed memory. `IONoMemoryError` says how long the longest free run is."""

    def free_size(self) -> int:
        """Bytes that this process could still get, in all."""
