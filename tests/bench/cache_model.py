"""What the cache model costs: a no-snoop access over lines that nobody changed, and a snooped one.

``python -m tests.bench.cache_model`` prints both for a few sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from device.layout import MemoryType
from device.platform.cache.model import CacheModel
from device.platform.cache.names import Direction, Mode, Span
from tests.device.cache_sequences import Memory

LIMIT = 3.0  # times a snooped access of the same size, from 64 KiB up
SIZES = (64 << 10, 256 << 10, 1 << 20)  # bytes
_ROUNDS, _REPEATS = 7, 20


def cost(size: int, *, write: bool, no_snoop: bool, line: int = 64) -> float:
    """Return the seconds that one access of ``size`` bytes takes, the best of several rounds."""
    model = CacheModel(Memory({"ram": bytearray(size)}), Mode.STRICT, line)
    spans = [Span("ram", 0, size)]
    model.track(1, Direction.IN_OUT, [(spans[0], MemoryType.WB)])
    model.sync_for_device(1, 0, size)
    data = bytes(size)

    def access() -> None:
        if write:
            model.write(spans, data, no_snoop=no_snoop)
        else:
            model.read(spans, no_snoop=no_snoop)

    return min(_timed(access) for _ in range(_ROUNDS))


def _timed(access: Callable[[], None]) -> float:
    start = perf_counter()
    for _ in range(_REPEATS):
        access()
    return (perf_counter() - start) / _REPEATS


def ratio(size: int, *, write: bool, line: int = 64) -> float:
    """Return how many snooped accesses one no-snoop access costs; ``LIMIT`` is what it may."""
    no_snoop = cost(size, write=write, no_snoop=True, line=line)
    return no_snoop / cost(size, write=write, no_snoop=False, line=line)


def worst() -> float:
    """Return the largest ratio of all sizes and line sizes, reads and writes."""
    return max(
        ratio(size, write=write, line=line)
        for size in SIZES
        for write in (False, True)
        for line in (32, 256)
    )


if __name__ == "__main__":
    for _size in SIZES:
        for _write in (False, True):
            _name = f"{'write' if _write else 'read'} of {_size >> 10} KiB"
            _micros = cost(_size, write=_write, no_snoop=True) * 1e6
            _ratio = ratio(_size, write=_write)
            print(f"{_name}: no-snoop {_micros:.0f} us, {_ratio:.2f} times a snooped one")
