# SPDX-License-Identifier: Apache-2.0
"""Memory that stands for a carve-out: a file in which an offset is a bus address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.unit.guest.memory_pool import FilePool

ZONE = Zone("main", 0x0C00_0000, 4 << 20)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[int]:
    """The file's descriptor; buffers come from it while the test runs."""
    fd = os.memfd_create("carve-out")
    os.ftruncate(fd, ZONE.start + ZONE.size)
    pool = FilePool(ZONE, tmp_path, fd, origin=0)
    dma_platform.use_pools(HeapPool(pool))
    yield fd
    dma_platform.use_pools()
    pool.close()
    os.close(fd)
