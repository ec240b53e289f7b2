# SPDX-License-Identifier: Apache-2.0
"""The cache model beside a CPU that runs; its bounds, and what it refuses."""

from __future__ import annotations

import tracemalloc
from functools import partial

import pytest

from dma_rehearsal.device.cache_model.lines import Window
from dma_rehearsal.device.cache_model.masks import blended, of_bytes
from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import (
    BadBuffer,
    BadConfiguration,
    BadRange,
    BadType,
    Direction,
    Span,
    TooMuch,
)
from dma_rehearsal.device.cache_model.rules import Rules
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.cache_sequences import Memory
from tests.unit.device.cache_model.small_cache import (
    LINE,
    NEW,
    OLD,
    UC,
    WB,
    WC,
    WT,
    SmallCache,
    stores_while_read,
)

# A CPU that runs while the model works.


@pytest.mark.parametrize("call", ["invalidate_range", "sync_for_cpu", "clean_invalidate_range"])
@pytest.mark.parametrize("kind", [WB, WT])
def test_no_store_of_a_running_cpu_is_undone(kind: MemoryType, call: str) -> None:
    """G is written only where bytes differ, in the copy that the operation took."""
    rig = SmallCache()
    rig.clean_buffer(kind)
    rig.write(0, NEW)
    stores_while_read(rig.memory, lambda: rig.ram.__setitem__(9, 9))
    getattr(rig.model, call)(7, 0, LINE)
    assert rig.ram[:2] == NEW + OLD
    assert rig.ram[9] == 9


class CopiesWholeLines(Rules):
    """Undoes stores of a CPU that runs: no sequence of single steps can show that."""

    def take_image(self, window: Window, lines: bytes | None = None) -> None:
        start, end = window.start, window.end
        image = bytes(window.extent.image[start:end])
        mask = of_bytes(bytes(window.lines * b"\xff") if lines is None else lines, self.line)
        self.change(window, start, image, mask)
        window.extent.known[start:end] = blended(window.extent.known[start:end], image, mask)


def test_a_model_that_copies_whole_lines_undoes_it() -> None:
    rig = SmallCache(model=partial(CacheModel, rules=CopiesWholeLines))
    rig.clean_buffer()
    rig.write(0, NEW)
    stores_while_read(rig.memory, lambda: rig.ram.__setitem__(9, 9))
    rig.model.invalidate_range(7, 0, LINE)
    assert rig.ram[9] == OLD[0]


@pytest.mark.parametrize("kind", [WC, UC])
def test_uncached_memory_is_written_byte_exact(kind: MemoryType) -> None:
    rig = SmallCache()
    rig.track(kind)
    stores_while_read(rig.memory, lambda: rig.ram.__setitem__(9, 9))
    rig.write(8, NEW)
    rig.write(10, NEW)
    assert rig.ram[8:11] == NEW + b"\x09" + NEW


def test_each_operation_reads_memory_once() -> None:
    rig = SmallCache()
    rig.clean_buffer(length=4 * LINE)
    reads: list[None] = []
    stores_while_read(rig.memory, lambda: reads.append(None))
    rig.write(0, NEW)
    rig.model.clean_invalidate_range(7, 0, 4 * LINE)
    rig.model.sync_for_device(7, 0, 4 * LINE)
    rig.model.sync_for_cpu(7, 0, 4 * LINE)
    rig.read(0, 4 * LINE)
    assert len(reads) == 5


# Reports.


def test_adjacent_lines_are_one_report_and_a_flood_is_counted() -> None:
    rig = SmallCache()
    rig.clean_buffer(length=16 * LINE)
    rig.ram[:] = NEW * 16 * LINE
    rig.write(0, NEW * 16 * LINE)
    assert rig.report().lines == 16
    for _ in range(300):
        rig.write(0, NEW)
    assert rig.model.reports.lost == 300 - 256
    assert len(rig.kinds()) == 256


def test_memory_is_proportional_to_what_is_tracked() -> None:
    size = 1 << 20
    memory = Memory({"ram": bytearray(size)})
    model = CacheModel(memory, line=64)
    tracemalloc.start()
    try:
        model.track(1, Direction.IN_OUT, [(Span("ram", 0, size), WB)])
        model.sync_for_device(1, 0, size)
        with_snapshot = tracemalloc.get_traced_memory()[0]
        model.sync_for_cpu(1, 0, size)
        tracked = tracemalloc.get_traced_memory()[0]
        model.untrack(1)
        left = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert tracked < 3.3 * size
    assert with_snapshot < 4.3 * size
    assert left < size // 100


# Refusals.


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (-1, 2), (0, LINE + 1), (LINE, 1), (3, -1)])
@pytest.mark.parametrize(
    "call",
    [
        *("clean_range", "invalidate_range", "clean_invalidate_range"),
        *("sync_for_device", "sync_for_cpu", "announce_begin", "announce_end"),
    ],
)
def test_a_range_that_the_buffer_does_not_have(call: str, offset: int, length: int) -> None:
    rig = SmallCache()
    rig.track()
    with pytest.raises(BadRange):
        getattr(rig.model, call)(7, offset, length)
    with pytest.raises(BadBuffer):
        getattr(rig.model, call)(8, 0, 1)


def test_what_track_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = SmallCache()
    with pytest.raises(BadType):
        rig.track(MemoryType.WP)
    with pytest.raises(BadRange):
        rig.track(length=0)
    with pytest.raises(BadRange):
        rig.model.track(7, Direction.IN, [])
    for edge in (LINE - 1, LINE + 1):
        runs = [(Span("ram", 0, edge), WB), (Span("ram", 2 * LINE, LINE), WB)]
        with pytest.raises(BadRange):
            rig.model.track(7, Direction.IN, runs)
    monkeypatch.setattr("dma_rehearsal.device.cache_model.model.MAX_OPERATION", 4 * LINE)
    with pytest.raises(BadRange):
        rig.track(length=4 * LINE + 1)
    with pytest.raises(BadRange):
        rig.read(0, 4 * LINE + 1)
    with pytest.raises(BadRange):
        rig.model.check([Span("ram", 0, 4 * LINE + 1)], no_snoop=False)
    monkeypatch.setattr("dma_rehearsal.device.cache_model.model.MAX_TRACKED", 2 * LINE)
    rig.track(length=2 * LINE)
    rig.track(length=2 * LINE, tag=8)  # the same lines: no more memory
    with pytest.raises(TooMuch):
        rig.track(offset=2 * LINE, length=1, tag=9)
    with pytest.raises(BadBuffer):
        rig.track()


@pytest.mark.parametrize("line", [0, 16, 48, 512])
def test_a_line_size_that_there_is_not(line: int) -> None:
    with pytest.raises(BadConfiguration):
        CacheModel(Memory({}), line=line)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_there_is_not(seed: int) -> None:
    with pytest.raises(BadConfiguration):
        CacheModel(Memory({}), seed=seed)


def test_a_write_of_another_length_than_its_spans() -> None:
    rig = SmallCache()
    rig.track()
    with pytest.raises(BadRange):
        rig.model.write([Span("ram", 0, 4)], b"123", no_snoop=True)
