"""Pools of ordinary memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from iobuffer import pools
from iobuffer.carveout import Zone
from iobuffer.heap_pool import HeapPool

from tests.guest.memory_pool import MemoryPool

MIB = 1 << 20


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
    pools.use(*map(HeapPool, made))
    yield made[0]
    pools.use()
    for pool in made:
        pool.close()
        os.close(pool.fd)
