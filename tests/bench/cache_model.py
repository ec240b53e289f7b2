# SPDX-License-Identifier: Apache-2.0
"""The cost of the cache model: no-snoop accesses of unchanged lines, and snooped ones."""

from __future__ import annotations

from collections.abc import Iterator

from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import Direction, Mode, Span
from dma_rehearsal.device.layout import MemoryType
from tests.bench.registry import Row, Work, at_most, benchmark, compare
from tests.unit.device.cache_model.cache_sequences import Memory

SIZES = (64 << 10, 256 << 10, 1 << 20)  # bytes
REPEAT = 5


def access(size: int, *, write: bool, no_snoop: bool, line: int) -> Work:
    """Return one access of ``size`` bytes to a buffer that the device owns."""
    model = CacheModel(Memory({"ram": bytearray(size)}), Mode.STRICT, line)
    spans = [Span("ram", 0, size)]
    model.track(1, Direction.IN_OUT, [(spans[0], MemoryType.WB)])
    model.sync_for_device(1, 0, size)
    data = bytes(size)
    if write:
        return lambda: model.write(spans, data, no_snoop=no_snoop)
    return lambda: model.read(spans, no_snoop=no_snoop)


@benchmark("no-snoop accesses of unchanged lines, and snooped ones: how many of these one costs")
def cache_model() -> Iterator[Row]:
    """Yield a row for each size, for reads and writes, with lines of 64 bytes."""
    for size in SIZES:
        for write in False, True:
            snooped, no_snoop = (
                access(size, write=write, no_snoop=each, line=64) for each in (False, True)
            )
            seen = compare(snooped, no_snoop, REPEAT)
            what = f"{'write' if write else 'read'} of {size >> 10} KiB"
            yield Row(what, f"{seen.theirs * 1e6:.0f} us", seen.ratio, at_most(3))
