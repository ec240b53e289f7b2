# SPDX-License-Identifier: Apache-2.0
"""The time of an allocation with few buffers alive, with many, and with none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, current_task, kIODirectionInOut
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.bench.registry import Row, Work, at_most, benchmark, compare
from tests.unit.guest.shared_pool import SharedPool

ZONE = Zone("main", 0x1000_0000, 256 << 20)
FEW, MANY = 10, 10_000
REPEAT = 50


def cycle(pool: HeapPool, capacity: int) -> Work:
    """Return one allocation and release in a pool."""

    def work() -> None:
        dma_platform.use_pools(pool)
        IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionInOut, capacity
        ).release()

    return work


@benchmark("allocation and release beside 10 live buffers, beside 10,000, and alone")
def allocation() -> Iterator[Row]:
    """Yield rows for small buffers and for those with pages of their own."""
    with ExitStack() as stack:
        stack.callback(dma_platform.use_pools)
        made = []
        for count in FEW, MANY, 0:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            fd = os.memfd_create("carve-out")
            stack.callback(os.close, fd)
            os.ftruncate(fd, ZONE.size)
            extents = SharedPool(fd, folder, ZONE)
            stack.callback(extents.close)
            pool = HeapPool(extents)
            dma_platform.use_pools(pool)
            for index in range(count):
                size = (64, 700, 4096, 20000)[index % 4]
                stack.enter_context(
                    IOBufferMemoryDescriptor.inTaskWithOptions(
                        current_task(), kIODirectionInOut, size
                    )
                )
            made.append(pool)
        few, many, none = made
        for capacity in 100, 5000:
            seen = compare(cycle(few, capacity), cycle(many, capacity), REPEAT)
            measured = f"{seen.ours * 1e6:.0f} us, {seen.theirs * 1e6:.0f} us"
            yield Row(f"{capacity} bytes", measured, seen.ratio, at_most(1.5))
        for capacity in 100, 5000:
            # The arena is anybody's in between, and the page of small ones comes and goes with it.
            seen = compare(cycle(few, capacity), cycle(none, capacity), REPEAT)
            measured = f"{seen.ours * 1e6:.0f} us, {seen.theirs * 1e6:.0f} us"
            yield Row(f"{capacity} bytes, alone in the pool", measured, seen.ratio, at_most(3))
