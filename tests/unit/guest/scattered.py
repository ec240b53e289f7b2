# SPDX-License-Identifier: Apache-2.0
"""Memory in scattered physical pages, and a bus on which a device finds it: real bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOCannotWireError,
    IONoMemoryError,
    IONotAttachedError,
    IONotReadyError,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions, PurgeableState
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_down, align_up
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import (
    IOMemoryDescriptor,
    MapRequest,
)
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping, MapPlacement

IN, OUT, IN_OUT = (
    IODirection.kIODirectionIn,
    IODirection.kIODirectionOut,
    IODirection.kIODirectionInOut,
)


class Scattered(IOMemoryDescriptor):
    """``length`` bytes from ``skip`` on of the pages at ``places``; unwired until prepared."""

    def __init__(
        self,
        bus: Bus,
        places: Sequence[int],
        length: int,
        direction: IODirection = IN_OUT,
        skip: int = 0,
    ) -> None:
        super().__init__(direction)
        self.bus, self.places, self.skip, self.length = bus, list(places), skip, length
        self.wires = 0
        self.refuse = False
        self._released = False
        self._maps: list[IOMemoryMap] = []
        self.fd = os.memfd_create("scattered")
        os.ftruncate(self.fd, max(1, len(places)) * PAGE)
        for number, place in enumerate(places):
            bus.pages[place] = self.fd, number * PAGE
        bus.live.append(self)

    def getLength(self) -> int:
        self._check_attached()
        return self.length

    def release(self) -> None:
        self._check_attached()
        self._check_idle("release()")
        assert all(each.unmapped for each in self._maps), "a mapping outlives its memory"
        while (last := self._preparations.last()) is not None:
            self._drop(last)
        assert not self.wires
        for place in self.places:
            del self.bus.pages[place]
        os.close(self.fd)
        self._released = True
        self.bus.live.remove(self)

    @property
    def released(self) -> bool:
        return self._released

    def _check_attached(self) -> None:
        if self._released:
            raise IONotAttachedError(f"{self!r} was released")

    def _wire(self, direction: IODirection) -> None:
        if self.refuse:
            raise IOCannotWireError(f"{direction.name}", address=None, length=self.length)
        self.wires += 1

    def _unwire(self) -> None:
        self.wires -= 1
        assert self.wires >= 0

    def _wired(self, offset: int, length: int) -> Iterator[Segment]:
        if not self.wires and length:
            raise IONotReadyError(f"{self!r} is not wired")
        at, end = self.skip + offset, self.skip + offset + length
        while at < end:
            size = min(end - at, PAGE - at % PAGE)
            yield self.places[at // PAGE] + at % PAGE, size
            at += size

    def _read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, self.skip + offset)

    def _write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, self.skip + offset)

    def _pages(self) -> Iterator[Segment]:
        yield self.skip % PAGE, self.length

    def _map(self, request: MapRequest) -> IOMemoryMap:
        at = self.skip + request.offset
        start = align_down(at, PAGE)
        placement = MapPlacement(
            read_only=MapOptions.kIOMapReadOnly in request.options,
            at=align_down(request.address, PAGE),
            within=request.within,
        )
        mapping = Mapping(self.fd, align_up(at + request.length, PAGE) - start, start, placement)
        made = IOMemoryMap(
            self,
            request.task,
            mapping.address + at - start,
            request.length,
            offset=request.offset,
            options=request.options,
            cache_mode=CacheMode.COPYBACK,
            mapping=mapping,
            unmap=mapping.close,
        )
        self._maps.append(made)
        return made


class PurgeableMemory(Scattered):
    """Memory that says it is in ``state``."""

    state = PurgeableState.kIOMemoryPurgeableNonVolatile

    def setPurgeable(self, newState: int) -> PurgeableState:
        old = self.state
        if newState != PurgeableState.kIOMemoryPurgeableKeepCurrent:
            self.state = PurgeableState(newState)
        return old


@dataclass
class Bus:
    """Physical pages by address, and who has them."""

    pages: dict[int, tuple[int, int]] = field(default_factory=dict)
    live: list[Scattered] = field(default_factory=list)
    low: int = 0x10_0000  # where bounce memory is looked for
    bounces: list[Scattered] = field(default_factory=list)
    make: Callable[..., Scattered] = Scattered

    def read(self, segments: Sequence[Segment]) -> bytes:
        """Return the bytes that a device reads there."""
        return b"".join(os.pread(*at) for segment in segments for at in self._parts(segment))

    def write(self, segments: Sequence[Segment], data: bytes) -> None:
        """Let a device write there."""
        done = 0
        for segment in segments:
            for fd, length, offset in self._parts(segment):
                os.pwrite(fd, data[done : done + length], offset)
                done += length
        assert done == len(data)

    def bounce(self, length: int, alignment: int, highest: int) -> Scattered:
        """A bounce allocator: contiguous, aligned, and below the limit."""
        size = align_up(length, PAGE)
        start = align_up(self.low, alignment)
        while any(start + at in self.pages for at in range(0, size, PAGE)):
            start += max(alignment, PAGE)
        if start + size - 1 > highest:
            raise IONoMemoryError(f"below {highest:#x}", asked=length, largest=0)
        made = Scattered(self, range(start, start + size, PAGE), length)
        self.bounces.append(made)
        return made

    def close(self) -> None:
        """Release all that lives; nothing is to be prepared any more."""
        for each in list(self.live):
            assert not each.prepared, each
            each.release()
        assert not self.pages

    def _parts(self, segment: Segment) -> Iterator[tuple[int, int, int]]:
        address, length = segment
        while length:
            page = align_down(address, PAGE)
            size = min(length, page + PAGE - address)
            fd, offset = self.pages[page]
            yield fd, size, offset + address - page
            address += size
            length -= size
