# SPDX-License-Identifier: Apache-2.0
"""Bus addresses behind an IOMMU (IOKit's mapper): one window for each wired memory.

With `Platform.iommu` set, wired memory has bus addresses of its own: one segment for all of its
physical ones, which devices may read or write as its preparations say. Without one, bus addresses
are physical.

An IOMMU works with whole pages, so a buffer behind one has its pages to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from dma_rehearsal.guest.iobuffer.base import holders
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.interfaces import BusMapping
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_down, align_up
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform

_NONE: Final = IODirection.kIODirectionNone
_ADDRESS_BITS: Final = 64

Reach = Callable[[], AbstractContextManager[int]]


@dataclass(frozen=True, slots=True)
class BusPlacement:
    """The allowed bus addresses of a memory.

    At a multiple of ``alignment`` bytes, up to ``highest`` (None: any); ``physical``: where the
    memory is, as if without an IOMMU.
    """

    alignment: int = 1
    highest: int | None = None
    physical: bool = False


class BusWindow:
    """The bus addresses of one memory behind the IOMMU that the platform has now.

    Without an IOMMU it never opens. Not locked. ``reach`` gives a context in which the ``length``
    bytes are mapped in this process, and their address.
    """

    def __init__(self, reach: Reach, length: int, place: BusPlacement | None = None) -> None:
        self._iommu = dma_platform.iommu
        self._reach, self._length = reach, length
        self._place = BusPlacement() if place is None else place
        self._rights = _NONE
        self._mapped: list[BusMapping] = []
        self._segments: list[Segment] = []

    @property
    def translated(self) -> bool:
        """Whether bus addresses are the mapper's, and not physical."""
        return self._iommu is not None

    def changes(self, rights: IODirection) -> bool:
        """Whether devices may do something else than ``rights``, so that it must be mapped anew."""
        return bool(self._mapped) and rights is not self._rights

    def allow(self, rights: IODirection, physical: Sequence[Segment]) -> None:
        """Let devices read the memory (Out), write it (In) or both, and nothing else.

        ``physical``: where it is. Rights that change leave it at its bus addresses, but no device
        reaches it for a moment. An error of the IOMMU leaves it closed.

        `IOUnsupportedError` where bus addresses cannot be physical and have to be;
        `IOBadArgumentError` when none are low enough.
        """
        if self._iommu is None or (self._mapped and not self.changes(rights)):
            return
        wanted = self._wanted(physical)
        if self._segments:  # it stays where it was
            starts = [at for at, _ in self._segments]
            wanted = [(size, at) for (size, _), at in zip(wanted, starts, strict=True)]
        self.close()
        try:
            with self._reach() as va:
                for length, at in wanted:
                    self._map(va, length, at, rights)
                    va += length
        except BaseException as error:
            undo(error, self.close)
            raise
        self._rights = rights

    def segments(self) -> Iterator[Segment]:
        """Yield (bus address, length in bytes) in order; `IONotReadyError` when it is not open."""
        if not self._mapped:
            raise IONotReadyError(
                "the memory is not mapped for the device behind the mapper; prepare() it"
            )
        return iter(self._segments)

    def close(self) -> None:
        """Take the memory from the devices. A second call does nothing.

        An error of the IOMMU leaves the rest on record: call it again.
        """
        self._rights = _NONE
        while self._mapped:
            self._mapped[-1].close()
            self._mapped.pop()
        self._segments = []

    def _wanted(self, physical: Sequence[Segment]) -> list[tuple[int, int | None]]:
        """Return (length, bus address or None for any) of each part that is mapped as one."""
        if self._place.physical:
            return [(length, address) for address, length in physical]
        return [(self._length, None)]

    def _map(self, va: int, length: int, at: int | None, rights: IODirection) -> None:
        """Map the pages that hold ``length`` bytes at ``va``."""
        if self._iommu is None:
            return
        skip = va % PAGE
        size = align_up(skip + length, PAGE)
        bits = self._bits(size)
        try:
            mapped = self._iommu.map(
                va - skip,
                size,
                read=bool(rights & IODirection.kIODirectionOut),
                write=bool(rights & IODirection.kIODirectionIn),
                address=None if at is None else align_down(at, PAGE),
                alignment=self._place.alignment,
                bits=bits,
                grant=False,  # prepare() grants, and to the byte
            )
        except IOBadArgumentError as error:
            if not self._place.physical:
                raise
            raise IOUnsupportedError(
                f"kIOMemoryMapperNone: the device is behind a mapper that cannot give {length} "
                f"bytes their physical address {at:#x} on the bus: {error.reason}; leave the "
                "option out, or use other memory",
                address=at,
                length=length,
            ) from error
        except IOReturnError as error:
            if error.code is IOReturn.kIOReturnNoResources:
                error.add(holders.of_the_bus())
            raise
        self._mapped.append(mapped)
        self._segments.append((mapped.address + skip, length))

    def _bits(self, size: int) -> int:
        """Return the bits that bus addresses may have."""
        highest = self._place.highest
        if highest is None:
            return _ADDRESS_BITS
        bits = (highest + 1).bit_length() - 1
        if size > 1 << bits:
            raise IOBadArgumentError(
                f"{size} bytes do not fit below the highest bus address {highest:#x}", length=size
            )
        return bits
