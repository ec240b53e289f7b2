# SPDX-License-Identifier: Apache-2.0
"""IOGuardPageMemoryDescriptor: pages that fault, before and behind memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_up
from dma_rehearsal.guest.iobuffer.descriptors.derived import DerivedMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import Data, MapRequest
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Window, reserve


class IOGuardPageMemoryDescriptor(DerivedMemoryDescriptor):
    """Whole pages without bytes, as an entry of an `IOMultiMemoryDescriptor`. Made by `withSize`.

    In a mapping any access to them faults. Reads and writes move nothing, and there is nothing for
    a device: no bus address, no grant.
    """

    def __init__(self, size: int) -> None:
        """``size`` that `withSize` has checked."""
        super().__init__(IODirection.kIODirectionNone)
        self._size = self._record.length = size

    @classmethod
    def withSize(cls, size: int) -> Self:
        """Return guards of ``size`` bytes, rounded up to pages; `IOBadArgumentError` below 1."""
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 1 << 47:
            raise IOBadArgumentError(f"guard pages of {size!r} bytes: at least 1, below 2^47")
        return cls(align_up(size, PAGE))

    def getLength(self) -> int:
        """Return the length in bytes, whole pages."""
        self._check_attached()
        return self._size

    def readBytes(self, offset: int, length: int) -> bytes:
        """Return nothing: guard pages have no bytes."""
        self._check_attached()
        return b""

    def writeBytes(self, offset: int, data: Data | None, length: int | None = None) -> int:
        """Store nothing, and return 0."""
        self._check_attached()
        return 0

    def getPhysicalSegment(self, offset: int = 0) -> Segment:
        """Return (0, 0): guard pages have no memory."""
        self._check_attached()
        return 0, 0

    def _wire(self, direction: IODirection) -> None:
        pass

    def _unwire(self) -> None:
        pass

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        return iter(())

    def _read(self, offset: int, length: int) -> bytes:
        raise IOReturnError(
            f"{self!r} has no bytes to read", code=IOReturn.kIOReturnNotReadable, length=length
        )

    def _write(self, offset: int, data: bytes) -> None:
        raise IOReturnError(
            f"{self!r} has no bytes to write", code=IOReturn.kIOReturnNotWritable, length=len(data)
        )

    def _map(self, request: MapRequest) -> IOMemoryMap:
        if not request.task.is_current:
            raise IOUnsupportedError(f"guard pages are mapped in this process, not {request.task}")
        address = request.address
        reservation = None
        if request.within is None:  # pages of a reservation fault already
            anywhere = MapOptions.kIOMapAnywhere in request.options
            reservation = reserve(
                align_up(request.offset % PAGE + request.length, PAGE),
                0 if anywhere else address - request.offset % PAGE,
            )
            address = reservation.address + request.offset % PAGE
        window = Window(address, request.length)

        def unmap() -> None:
            window.check_unused()
            if reservation is not None:
                reservation.close()

        return self._made(request, address, CacheMode.DEFAULT, window, unmap)

    def _pages(self) -> Iterator[Segment]:
        yield 0, self._size

    def __repr__(self) -> str:
        return f"<IOGuardPageMemoryDescriptor {self._size} bytes, {self._state()}>"
