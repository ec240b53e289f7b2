# SPDX-License-Identifier: Apache-2.0
"""Carve-outs that are files of this process, and buffers from them."""

from __future__ import annotations

import os
from pathlib import Path

from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IOOptions,
    current_task,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement


class Window:
    """A mapping that the kernel keeps, as the driver's `KernelMap` shows it."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd, self._offset, self.length = fd, offset, length
        self.address = 0xFFFF_8000_0000_0000 + offset

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, self._offset + offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._fd, data, self._offset + offset)

    def close(self) -> None: ...

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None: ...


class FilePool(CarveoutPool):
    """A carve-out whose memory is the open file ``fd``, which begins at the address ``origin``."""

    def __init__(self, zone: Zone, folder: Path, fd: int, origin: int) -> None:
        super().__init__(zone, locks=folder)
        self.fd, self._origin = fd, origin

    def map(
        self,
        extent: Extent,
        mode: CacheMode,  # noqa: ARG002
        placement: MapPlacement = ANYWHERE,
    ) -> Mapping:
        return Mapping(self.fd, extent.length, extent.address - self._origin, placement)

    def kernel_map(self, extent: Extent, mode: CacheMode) -> KernelMap:  # noqa: ARG002
        window: object = Window(self.fd, extent.address - self._origin, extent.length)
        return window  # type: ignore[return-value]


class MemoryPool(FilePool):
    """A carve-out whose memory is a file of this process; it counts what is mapped."""

    def __init__(self, zone: Zone, folder: Path) -> None:
        fd = os.memfd_create(zone.name)
        os.ftruncate(fd, zone.size)
        super().__init__(zone, folder, fd, origin=zone.start)
        self.mapped: list[tuple[Extent, CacheMode]] = []

    def map(self, extent: Extent, mode: CacheMode, placement: MapPlacement = ANYWHERE) -> Mapping:
        self.mapped.append((extent, mode))
        return super().map(extent, mode, placement)

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
