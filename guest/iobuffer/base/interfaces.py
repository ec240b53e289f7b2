# SPDX-License-Identifier: Apache-2.0
"""Protocols between the layers: what a board provides, and what it sees of a descriptor.

`memory.platform.Platform` holds one object for each of the first group. All addresses and lengths
are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dma_rehearsal.guest.iobuffer.base.options import IODirection

# For a board to provide.


class AccessControl(Protocol):
    """Grants of bus addresses to devices."""

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        """Let devices reach ``length`` bytes at bus ``address``; return what `withdraw` takes.

        In: a device may write. Out: a device may read. `IOReturnError` without room.
        """

    def withdraw(self, grant: object) -> None:
        """Take one grant back; it stays when this raises, an `IOReturnError`.

        `IONotPermittedError`: this comes in the middle of another call, and can be done later.
        """

    def reclaim(self) -> None:
        """Take back the grants of processes that have ended."""


class BusMapping(Protocol):
    """Memory at bus addresses, pinned, until `close`."""

    @property
    def address(self) -> int:
        """The first bus address."""

    def close(self) -> None:
        """Take it from the devices; none of them reaches it when this returns."""


class Iommu(Protocol):
    """Maps memory of this process for devices; `vfio.Container` is one."""

    def map(
        self,
        va: int,
        length: int,
        *,
        read: bool,
        write: bool,
        address: int | None = None,
        alignment: int = 1,
        bits: int = 64,
        grant: bool = True,
    ) -> BusMapping:
        """Let devices ``read`` or ``write`` whole pages at ``va``.

        ``address``: the bus address that is wanted; else one at a multiple of ``alignment`` below
        2**``bits``. ``grant``: tell the access control, too. `IOReturnError` when that cannot be.
        """


class Pinned(Protocol):
    """Pages that stay where they are until `close`."""

    def segments(self) -> Sequence[tuple[int, int]]:
        """Return (bus address, length) in the memory's order."""

    def close(self) -> None:
        """Let the pages go."""


class Pinner(Protocol):
    """Pins memory of this process."""

    def pin(self, address: int, length: int, *, write: bool = True) -> Pinned:
        """Pin bytes; ``write``: devices may store there. `IOReturnError` when it cannot be."""


@dataclass(frozen=True, slots=True)
class Untouched:
    """``count`` bytes of a range, the first of them at ``offset``."""

    count: int
    offset: int


class DmaEvidence(Protocol):
    """Sees the DMA of all devices."""

    def untouched(
        self, address: int, length: int, direction: IODirection, since: int
    ) -> Untouched | None:
        """Return what of a range of bus addresses no DMA of ``direction`` touched after ``since``.

        In: a device wrote it; Out: a device read it; InOut: either. ``since`` is what
        `provenance.clock` said. None: that is not known.
        """


# A descriptor, as a board sees it.


class Descriptor(Protocol):
    """A descriptor, for users that must not know its class."""

    def getDirection(self) -> IODirection:
        """Return the direction that the descriptor was made for."""

    def getLength(self) -> int:
        """Return the length."""

    def getPhysicalSegment(self, offset: int = 0) -> tuple[int, int]:
        """Return (bus address, bytes to the segment's end) at ``offset``."""

    def segments(self, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
        """Return the bus segments (address, length) of a part, to the end by default."""


class KernelMapping(Protocol):
    """The kernel's mapping of a memory: its address, and the page tables that contain it."""

    @property
    def address(self) -> int:
        """The kernel's virtual address."""

    @property
    def root(self) -> int:
        """The physical address of the page tables' root."""

    @property
    def levels(self) -> int:
        """The levels of those page tables, 4 or 5."""


class KernelMappable(Protocol):
    """Memory that the kernel can map."""

    def make_kernel_map(self) -> KernelMapping:
        """Have the kernel map all of it, once; return the mapping."""


class BufferDescriptor(Descriptor, Protocol):
    """A buffer whose pages belong to its descriptor alone."""

    @property
    def address(self) -> int:
        """The virtual address in this process, 0 when it is not mapped here."""

    @property
    def backing(self) -> KernelMappable:
        """The memory behind the buffer."""

    def getCapacity(self) -> int:
        """Return the bytes that were asked for."""
