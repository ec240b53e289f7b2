"""Carve-outs that are files of this process, and buffers from them."""

from __future__ import annotations

import os
from pathlib import Path

from iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IOOptions,
    current_task,
    kIODirectionInOut,
)
from iobuffer.carveout import CarveoutPool, Zone
from iobuffer.pool import Extent
from iobuffer.vm import ANYWHERE, Mapping, Placement


class MemoryPool(CarveoutPool):
    """A carve-out whose memory is a file of this process; it counts what is mapped."""

    def __init__(self, zone: Zone, folder: Path) -> None:
        super().__init__(zone, locks=folder)
        self.fd = os.memfd_create(zone.name)
        os.ftruncate(self.fd, zone.size)
        self.mapped: list[tuple[Extent, CacheMode]] = []

    def map(self, extent: Extent, mode: CacheMode, placement: Placement = ANYWHERE) -> Mapping:
        self.mapped.append((extent, mode))
        return Mapping(self.fd, extent.length, extent.address - self.zone.start, placement)

    def bytes_at(self, address: int, length: int) -> bytes:
        return os.pread(self.fd, length, address - self.zone.start)


def make(
    capacity: int,
    alignment: int = 1,
    options: IOOptions | int = kIODirectionInOut,
    pool: str | None = None,
) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), options, capacity, alignment, pool=pool
    )
