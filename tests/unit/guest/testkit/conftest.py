# SPDX-License-Identifier: Apache-2.0
"""Memory that stands for a carve-out: a file in which an offset is a bus address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import CacheMode
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool, Zone
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement

ZONE = Zone("main", 0x0C00_0000, 4 << 20)


class FilePool(CarveoutPool):
    """A carve-out whose memory is a file of this process."""

    def __init__(self, fd: int, folder: Path) -> None:
        super().__init__(ZONE, locks=folder)
        self._file = fd

    def map(
        self,
        extent: Extent,
        mode: CacheMode,  # noqa: ARG002
        placement: MapPlacement = ANYWHERE,
    ) -> Mapping:
        """Map as ordinary memory."""
        return Mapping(self._file, extent.length, extent.address, placement)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[int]:
    """The file's descriptor; buffers come from it while the test runs."""
    fd = os.memfd_create("carve-out")
    os.ftruncate(fd, ZONE.start + ZONE.size)
    pool = FilePool(fd, tmp_path)
    dma_platform.use_pools(HeapPool(pool))
    yield fd
    dma_platform.use_pools()
    pool.close()
    os.close(fd)
