# SPDX-License-Identifier: Apache-2.0
"""Pools of ordinary memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.unit.guest.memory_pool import MemoryPool
from tests.unit.guest.shared_pool import MIB, ZONE, Remake, SharedPool


@pytest.fixture
def main(tmp_path: Path) -> Iterator[MemoryPool]:
    made = [
        MemoryPool(Zone(name, start, size), tmp_path)
        for name, start, size in [
            ("main", 0x0C00_0000, 4 * MIB),
            ("high", 0x1_1000_0000, 8 * MIB),
            ("low", 0x00D0_0000, MIB),
        ]
    ]
    dma_platform.use_pools(*map(HeapPool, made))
    yield made[0]
    dma_platform.use_pools()
    for pool in made:
        pool.close()
        os.close(pool.fd)


@pytest.fixture
def remake(tmp_path: Path) -> Iterator[Remake]:
    """Make the pool: once here, and once in each process that is forked."""
    fd = os.memfd_create("carve-out")
    os.ftruncate(fd, ZONE.size)

    def make() -> SharedPool:
        pool = SharedPool(fd, tmp_path)
        dma_platform.use_pools(HeapPool(pool))
        return pool

    pool = make()
    yield make
    dma_platform.use_pools()
    pool.close()
    os.close(fd)
