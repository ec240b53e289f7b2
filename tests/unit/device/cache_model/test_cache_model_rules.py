# SPDX-License-Identifier: Apache-2.0
"""The cache model's rules for lines, with the bytes and the reports that they promise."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import (
    BadBuffer,
    Busy,
    Direction,
    NotTracked,
    Operation,
    Span,
)
from dma_rehearsal.device.cache_model.reports import MissingCall, ReportKind
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.cache_sequences import Memory
from tests.unit.device.cache_model.small_cache import (
    EVERY_LINE,
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

# The truth table.


@pytest.mark.parametrize("line", EVERY_LINE)
@pytest.mark.parametrize(
    ("kind", "stored", "received"),
    [(WB, OLD, OLD), (WT, NEW, OLD), (WC, NEW, NEW), (UC, NEW, NEW)],
    ids=lambda each: each.name if isinstance(each, MemoryType) else "",
)
def test_the_truth_table(kind: MemoryType, stored: bytes, received: bytes, line: int) -> None:
    """Without the sync, what the table says; with it, new bytes in every mode."""
    rig = SmallCache(line=line)
    rig.clean_buffer(kind)
    rig.ram[:line] = NEW * line
    assert rig.read(0, line) == stored * line
    rig.model.sync_for_device(7, 0, line)
    assert rig.read(0, line) == NEW * line

    rig = SmallCache(line=line)
    rig.clean_buffer(kind)
    rig.write(0, NEW * line)
    assert rig.ram[:line] == received * line
    rig.model.sync_for_cpu(7, 0, line)
    assert rig.ram[:line] == NEW * line


@pytest.mark.parametrize("kind", [WB, WT, WC, UC])
def test_a_snooped_access_sees_what_the_cpu_sees(kind: MemoryType) -> None:
    rig = SmallCache()
    rig.clean_buffer(kind)
    rig.ram[3] = 9
    assert rig.read(0, 5, no_snoop=False) == OLD * 3 + b"\x09" + OLD
    rig.write(4, NEW, no_snoop=False)
    assert rig.ram[:6] == OLD * 3 + b"\x09" + NEW + OLD
    assert rig.read(4, 1) == NEW  # it is in DRAM too
    assert not rig.kinds()


# Track and untrack.


@pytest.mark.parametrize("line", EVERY_LINE)
def test_a_buffer_never_cleaned_reads_as_the_seeds_garbage(line: int) -> None:
    first, again, other = (
        SmallCache(line=line),
        SmallCache(line=line),
        SmallCache(line=line, seed=2),
    )
    for rig in (first, again, other):
        rig.track()
    garbage = first.read(0, line)
    assert garbage == again.read(0, line)
    assert garbage != OLD * line
    assert garbage != other.read(0, line)


def test_poison_differs_between_buffers_and_has_no_seam_at_a_page() -> None:
    rig = SmallCache(line=256)
    rig.track(offset=0, length=256, tag=1)
    rig.track(offset=256, length=256, tag=2)
    assert rig.read(0, 256) != rig.read(256, 256)
    big = Memory({"ram": bytearray(3 * 4096)})
    models = [CacheModel(big, seed=5) for _ in range(2)]
    whole = [(Span("ram", 0, 3 * 4096), WB)]
    pieces = [(Span("ram", at, 4096), WB) for at in range(0, 3 * 4096, 4096)]
    for model, runs in zip(models, (whole, pieces), strict=True):
        model.track(1, Direction.IN, runs)
    span = [Span("ram", 4000, 300)]
    assert models[0].read(span, no_snoop=True) == models[1].read(span, no_snoop=True)


def test_a_range_is_rounded_outwards_to_lines() -> None:
    rig = SmallCache()
    rig.track(offset=LINE + 60, length=8)
    seen = [rig.model.look(Span("ram", i * LINE, 1)) is not None for i in range(4)]
    assert seen == [False, True, True, False]
    assert rig.model.tracked_size == 2 * LINE


def test_a_line_tracked_again_keeps_its_state_and_is_counted() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.write(0, NEW)
    before = rig.model.look(Span("ram", 0, 1))
    rig.track(offset=8, length=8, tag=8)
    after = rig.model.look(Span("ram", 0, 1))
    assert before
    assert after
    assert after.buffers == (7, 8)
    assert (after.image, after.written, after.dirty) == (before.image, before.written, False)
    rig.model.untrack(7)
    rig.model.reports.take()
    assert rig.read(0, 1) == NEW  # still tracked
    rig.model.untrack(8)
    with pytest.raises(NotTracked):
        rig.read(0, 1)


@pytest.mark.parametrize("kind", [WT, WC, UC])
def test_another_type_is_busy_and_changes_nothing(kind: MemoryType) -> None:
    rig = SmallCache()
    rig.track(offset=LINE)
    with pytest.raises(Busy) as refused:
        rig.track(kind, offset=0, length=2 * LINE, tag=8)
    assert refused.value.offset == LINE
    assert rig.model.look(Span("ram", 0, 1)) is None
    with pytest.raises(BadBuffer):
        rig.model.untrack(8)


def test_one_page_twice_in_a_buffer_is_one_page() -> None:
    rig = SmallCache()
    twice = [(Span("ram", 0, LINE), WB), (Span("ram", 0, LINE), WB)]
    rig.model.track(7, Direction.IN, twice)
    assert rig.model.tracked_size == LINE
    rig.model.sync_for_device(7, 0, 2 * LINE)
    rig.model.sync_for_cpu(7, 0, 2 * LINE)
    rig.model.untrack(7)
    assert rig.model.tracked_size == 0
    other = [(Span("ram", 0, LINE), WB), (Span("ram", 0, LINE), UC)]
    with pytest.raises(Busy):
        rig.model.track(7, Direction.IN, other)
    assert rig.model.tracked_size == 0


def test_untrack_settles_what_the_cpu_sees() -> None:
    """A dirty line keeps G; any other takes D."""
    rig = SmallCache()
    rig.clean_buffer(length=2 * LINE)
    rig.write(0, NEW)
    rig.write(LINE, NEW)
    rig.ram[LINE + 1] = 9
    rig.model.untrack(7)
    assert rig.ram[:2] == NEW + OLD
    assert rig.ram[LINE : LINE + 2] == OLD + b"\x09"
    assert rig.kinds() == [ReportKind.RELEASED_UNREAD] * 2


def test_untrack_of_what_is_dirty_only_because_of_track_says_nothing() -> None:
    rig = SmallCache()
    rig.track()
    rig.model.untrack(7)
    assert not rig.kinds()
    assert rig.ram[:LINE] == OLD * LINE


def test_lines_are_joined_again_when_a_neighbour_is_gone() -> None:
    """Neighbours that come and go must not cut a buffer into ever more pieces."""
    rig = SmallCache()
    rig.clean_buffer(length=16 * LINE)
    for line in range(1, 15, 2):
        rig.track(offset=line * LINE, length=LINE, tag=100 + line)
    for line in range(1, 15, 2):
        rig.model.untrack(100 + line)
    reads: list[None] = []
    stores_while_read(rig.memory, lambda: reads.append(None))
    rig.read(0, 16 * LINE)
    assert len(reads) == 1


def test_lines_that_chance_treats_apart_are_not_joined() -> None:
    """A line that was tracked first for another buffer keeps that buffer's draws."""
    rig = SmallCache()
    rig.track(offset=0, tag=1)
    runs = [(Span("ram", 5 * LINE, LINE), WB), (Span("ram", LINE, LINE), WB)]
    rig.model.track(2, Direction.IN_OUT, runs)
    rig.track(offset=0, length=2 * LINE, tag=3)
    rig.model.untrack(1)
    rig.model.untrack(2)
    reads: list[None] = []
    stores_while_read(rig.memory, lambda: reads.append(None))
    rig.read(0, 2 * LINE)
    assert len(reads) == 2


def test_adjacent_runs_of_two_types_stay_apart() -> None:
    rig = SmallCache()
    runs = [(Span("ram", 0, LINE), WB), (Span("ram", LINE, LINE), UC)]
    rig.model.track(7, Direction.IN_OUT, runs)
    types = [rig.model.look(Span("ram", at, 1)) for at in (0, LINE)]
    assert [each.type for each in types if each] == [WB, UC]


# Observe.


def test_write_through_takes_the_changed_bytes_and_only_those() -> None:
    rig = SmallCache()
    rig.clean_buffer(WT)
    rig.write(0, NEW * 4)  # DRAM only
    rig.ram[2] = 9
    assert rig.read(0, 5) == NEW * 2 + b"\x09" + NEW + OLD


def test_a_store_that_is_undone_still_made_the_line_dirty() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.ram[0] = 9
    rig.read(0, 1)
    rig.ram[0] = OLD[0]
    rig.write(8, NEW)
    assert rig.kinds() == [ReportKind.WRITE_TO_DIRTY_LINE]


# No-snoop writes and the mark W.


@pytest.mark.parametrize("line", EVERY_LINE)
def test_a_write_at_every_offset_of_a_line(line: int) -> None:
    rig = SmallCache(line=line)
    rig.clean_buffer(length=2 * line)
    rig.model.sync_for_device(7, 0, 2 * line)
    for offset in range(2 * line - 2):
        rig.write(offset, bytes((offset & 0xFF, 1, 2)))
        assert rig.read(offset, 3) == bytes((offset & 0xFF, 1, 2))
    assert rig.ram[: 2 * line] == OLD * 2 * line
    rig.model.sync_for_cpu(7, 0, 2 * line)
    assert rig.ram[: 2 * line - 3] == bytes(each & 0xFF for each in range(2 * line - 3))
    assert not rig.kinds()


def test_a_write_to_a_dirty_line_is_reported_at_once() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.ram[5] = 9
    rig.write(0, NEW * 8)
    found = rig.report()
    assert found.kind is ReportKind.WRITE_TO_DIRTY_LINE
    assert (found.buffer, found.other) == (7, 7)
    assert (found.offset, found.line, found.lines) == (0, 0, 1)
    assert (found.by, found.last, found.last_number) == (
        *(Operation.NO_SNOOP_WRITE, Operation.CLEAN),
        found.number - 1,
    )
    assert found.expected[5] == 9
    assert found.seen == OLD * LINE
    assert found.missing is MissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE


def test_a_receive_loop_needs_no_sync_for_the_device_while_the_cpu_only_looks() -> None:
    """As Linux's DMA-API-HOWTO has it; a store of the value that is there already is not seen."""
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.sync_for_device(7, 0, LINE)
    for value in (b"\x31", b"\x32", b"\x33"):
        rig.write(0, value * LINE)
        rig.model.sync_for_cpu(7, 0, LINE)
        assert rig.ram[:LINE] == value * LINE
        rig.ram[5] = value[0]
    assert not rig.kinds()
    rig.ram[5] = 9
    rig.write(0, NEW * LINE)
    assert rig.report().missing is MissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE


def test_a_clean_of_a_line_that_the_cpu_left_alone_loses_nothing() -> None:
    """A buffer that is given back with its sync, and what it holds unread, is not at risk."""
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.sync_for_cpu(7, 0, LINE)
    rig.write(0, NEW)
    rig.model.sync_for_device(7, 0, LINE)
    assert not rig.kinds()
    assert rig.read(0, 1) == NEW


def test_a_snooped_write_takes_its_bytes_out_of_w() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.write(0, NEW * 4)
    rig.write(0, NEW * 4, no_snoop=False)
    rig.ram[9] = 9
    rig.model.clean_range(7, 0, LINE)
    assert not rig.kinds()
    rig.write(4, NEW)
    rig.ram[9] = 8
    rig.model.clean_range(7, 0, LINE)
    found = rig.report()
    assert found.kind is ReportKind.DEVICE_BYTES_LOST
    assert (found.expected[4:5], found.seen[4:5]) == (NEW, OLD)


# Maintenance.


def test_clean_writes_back_the_line_whole() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.write(0, NEW)
    rig.ram[9] = 9
    rig.model.clean_range(7, 9, 1)
    assert rig.read(0, 10) == OLD * 9 + b"\x09"
    assert rig.kinds() == [ReportKind.DEVICE_BYTES_LOST]


def test_invalidate_destroys_what_was_not_cleaned() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.ram[9] = 9
    rig.model.invalidate_range(7, 9, 1)
    assert rig.ram[9] == OLD[0]
    found = rig.report()
    assert (found.kind, found.missing) == (
        ReportKind.CPU_BYTES_LOST,
        MissingCall.SYNC_FOR_DEVICE_AFTER_STORE,
    )
    assert (found.expected[9], found.seen[9]) == (9, OLD[0])


def test_invalidate_of_a_line_dirty_only_because_of_track_says_nothing() -> None:
    rig = SmallCache()
    rig.track()
    rig.model.invalidate_range(7, 0, LINE)
    assert not rig.kinds()
    assert rig.ram[:LINE] != OLD * LINE


def test_clean_and_invalidate_loses_no_store() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.ram[9] = 9
    rig.model.clean_invalidate_range(7, 0, LINE)
    assert rig.ram[9] == 9
    assert rig.read(9, 1) == b"\x09"
    assert not rig.kinds()


def test_strict_shows_the_next_missing_sync_too() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.invalidate_range(7, 0, LINE)
    rig.write(0, NEW)
    assert rig.ram[:1] == OLD


@pytest.mark.parametrize("line", EVERY_LINE)
@pytest.mark.parametrize("call", ["clean_range", "invalidate_range", "sync_for_device"])
def test_exactly_the_lines_of_the_range(call: str, line: int) -> None:
    """At every alignment of start and length around a line's edge."""
    for start in (0, 1, line - 1, line, line + 1):
        for length in (1, 2, line - 1, line, line + 1, 2 * line):
            rig = SmallCache(line=line)
            rig.clean_buffer(length=4 * line)
            rig.ram[: 4 * line] = NEW * 4 * line
            getattr(rig.model, call)(7, start, length)
            touched = range(start // line, (start + length - 1) // line + 1)
            if call == "invalidate_range":
                found = [rig.ram[each * line] == OLD[0] for each in range(4)]
            else:
                found = [rig.read(each * line, 1) == NEW for each in range(4)]
            assert found == [each in touched for each in range(4)], (start, length)


def test_neighbours_in_one_line() -> None:
    """Clean and invalidate of one buffer destroy what they destroy on a board."""
    rig = SmallCache()
    rig.track(offset=0, length=32, tag=1)
    rig.track(offset=32, length=32, tag=2)
    rig.model.clean_range(1, 0, 32)
    rig.write(0, NEW * 4)  # received for the one
    rig.ram[40] = 9  # stored to the other
    rig.model.clean_range(2, 0, 32)
    found = rig.report()
    assert (found.kind, found.buffer, found.offset) == (ReportKind.DEVICE_BYTES_LOST, 2, -32)
    assert (found.missing, found.other) == (MissingCall.NONE_LINE_IS_SHARED, 1)
    assert rig.read(0, 4) == OLD * 4
    rig.ram[40] = 10
    rig.model.invalidate_range(1, 0, 32)
    found = rig.report()
    assert (found.kind, found.buffer, found.other) == (ReportKind.CPU_BYTES_LOST, 1, 2)
    assert rig.ram[40] == 9
    rig.ram[40] = 11
    rig.write(16, NEW)  # received for the one
    found = rig.report()
    assert (found.kind, found.buffer, found.other) == (ReportKind.WRITE_TO_DIRTY_LINE, 1, 2)
    assert found.missing is MissingCall.NONE_LINE_IS_SHARED
