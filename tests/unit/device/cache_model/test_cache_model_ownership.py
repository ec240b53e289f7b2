# SPDX-License-Identifier: Apache-2.0
"""The cache model: who owns a buffer, announced foreign writers, and the modes."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.cache_model import names
from dma_rehearsal.device.cache_model.names import (
    BadAnnouncement,
    BadConfiguration,
    Direction,
    Mode,
    NotTracked,
    Operation,
    Span,
)
from dma_rehearsal.device.cache_model.reports import MissingCall, ReportKind
from dma_rehearsal.device.cache_model.seeded import draws
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.small_cache import LINE, NEW, OLD, UC, WB, WC, WT, SmallCache

# Ownership.


@pytest.mark.parametrize("kind", [WB, WT, WC, UC])
def test_a_store_while_the_device_owns_the_buffer(kind: MemoryType) -> None:
    rig = SmallCache()
    rig.clean_buffer(kind, 2 * LINE)
    rig.model.sync_for_device(7, 0, 2 * LINE)
    rig.ram[LINE + 3 : LINE + 5] = b"ab"
    rig.model.sync_for_cpu(7, 0, 2 * LINE)
    found = rig.model.reports.take()[0]
    assert found.kind is ReportKind.STORED_WHILE_DEVICE_OWNS
    assert (found.offset, found.line) == (LINE + 3, 1)
    assert (found.expected, found.seen) == (OLD * 2, b"ab")
    assert found.missing is MissingCall.SYNC_FOR_CPU_BEFORE_STORE


@pytest.mark.parametrize("kind", [WB, WT, WC, UC])
@pytest.mark.parametrize("no_snoop", [False, True])
def test_what_the_device_writes_is_no_store(kind: MemoryType, no_snoop: bool) -> None:
    rig = SmallCache()
    rig.clean_buffer(kind)
    rig.model.sync_for_device(7, 0, LINE)
    rig.write(3, NEW * 4, no_snoop=no_snoop)
    rig.model.sync_for_cpu(7, 0, LINE)
    assert rig.ram[3:7] == NEW * 4
    assert not rig.kinds()


def test_ownership_is_byte_exact_and_ends_with_its_sync() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.sync_for_device(7, 8, 8)
    rig.ram[7] = rig.ram[16] = 9  # beside the range: the CPU's
    rig.model.sync_for_cpu(7, 8, 4, Direction.OUT)
    rig.ram[8] = 9  # given back
    rig.model.sync_for_cpu(7, 8, 4, Direction.OUT)
    assert not rig.kinds()
    rig.ram[12] = 9  # still the device's
    rig.model.sync_for_cpu(7, 0, LINE, Direction.OUT)
    assert [each.offset for each in rig.model.reports.take()] == [12]


@pytest.mark.parametrize("direction", list(Direction))
def test_who_does_what(direction: Direction) -> None:
    """sync_for_device cleans; sync_for_cpu invalidates, but for Out."""
    rig = SmallCache()
    rig.track(direction=direction)
    rig.ram[0] = 9
    rig.model.sync_for_device(7, 0, LINE)
    assert rig.read(0, 1) == b"\x09"
    rig.write(1, NEW)
    rig.model.sync_for_cpu(7, 0, LINE)
    assert rig.ram[1:2] == (OLD if direction is Direction.OUT else NEW)


def test_a_sync_in_a_direction_that_the_buffer_does_not_have() -> None:
    for mine in Direction:
        for asked in Direction:
            rig = SmallCache()
            rig.track(direction=mine)
            rig.model.sync_for_device(7, 3, 5, asked)
            rig.model.sync_for_cpu(7, 3, 5, asked)
            expected = [] if mine in (asked, Direction.IN_OUT) else [ReportKind.WRONG_DIRECTION] * 2
            assert rig.kinds() == expected, (mine, asked)


# Announcements.


@pytest.mark.parametrize("kind", [WB, WT, WC, UC])
def test_a_foreign_writer_that_is_announced_is_like_a_snooped_write(kind: MemoryType) -> None:
    rig = SmallCache()
    rig.clean_buffer(kind)
    rig.model.sync_for_device(7, 0, LINE)
    rig.model.announce_begin(7, 0, LINE)
    rig.ram[3:7] = NEW * 4
    rig.model.announce_end(7, 0, LINE)
    assert rig.read(2, 6) == OLD + NEW * 4 + OLD
    rig.model.sync_for_cpu(7, 0, LINE)
    assert not rig.kinds()
    assert rig.ram[3:7] == NEW * 4


def test_what_the_cpu_stored_before_an_announcement_stays_its_own() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.ram[0] = 9
    rig.model.announce_begin(7, 0, LINE)
    rig.ram[1] = 8
    rig.model.announce_end(7, 0, LINE)
    assert rig.read(0, 2) == OLD + b"\x08"


def test_announcements_are_paired_and_few() -> None:
    rig = SmallCache()
    rig.track(length=2 * LINE)
    with pytest.raises(BadAnnouncement):
        rig.model.announce_end(7, 0, 4)
    rig.model.announce_begin(7, 0, 4)
    with pytest.raises(BadAnnouncement):
        rig.model.announce_begin(7, 0, 4)
    for offset in range(1, names.MAX_ANNOUNCED):
        rig.model.announce_begin(7, offset, 4)
    with pytest.raises(BadAnnouncement):
        rig.model.announce_begin(7, names.MAX_ANNOUNCED, 4)
    rig.model.untrack(7)
    rig.track()
    rig.model.announce_begin(7, 0, 4)


# Modes.


def test_strict_moves_nothing_where_any_line_is_untracked() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    with pytest.raises(NotTracked) as refused:
        rig.write(LINE - 1, NEW * 2)
    assert refused.value.offset == LINE
    with pytest.raises(NotTracked):
        rig.read(LINE, 1)
    number = rig.model.number
    with pytest.raises(NotTracked):
        rig.model.check([Span("ram", 0, LINE + 1)], no_snoop=True)
    rig.model.check([Span("ram", 0, LINE + 1)], no_snoop=False)
    rig.model.check([Span("ram", 0, LINE)], no_snoop=True)
    assert rig.model.number == number
    assert rig.ram == OLD * 16 * LINE
    assert rig.read(LINE - 1, 1) == OLD


@pytest.mark.parametrize("mode", [Mode.SEEDED, Mode.OFF])
def test_otherwise_an_access_to_an_untracked_line_is_snooped(mode: Mode) -> None:
    rig = SmallCache(mode)
    rig.write(0, NEW)
    assert rig.ram[:1] == NEW
    assert rig.read(0, 2) == NEW + OLD


def test_nothing_is_tracked_while_the_model_is_off() -> None:
    with pytest.raises(BadConfiguration):
        SmallCache(Mode.OFF).track()


def _operation_that(rig: SmallCache, line: int) -> None:
    """Let operations elsewhere pass until the next one draws this line."""
    while not any(draws(rig.model.seed, 0, rig.model.number + 1, line, 1)):
        rig.read(8 * rig.line, 1)


def test_an_eviction_writes_a_dirty_line_back() -> None:
    rig = SmallCache(Mode.SEEDED)
    rig.clean_buffer()
    rig.ram[9] = 9
    _operation_that(rig, 0)
    assert rig.read(9, 1) == b"\x09"
    line = rig.model.look(Span("ram", 0, 1))
    assert line
    assert not line.cached | line.dirty
    rig.write(0, NEW)  # not cached: the CPU sees it at once
    assert rig.ram[:1] == NEW
    _operation_that(rig, 0)
    rig.read(0, 1)
    line = rig.model.look(Span("ram", 0, 1))
    assert line
    assert line.cached
    rig.write(0, b"\x33")
    assert rig.ram[:1] in (NEW, b"\x33")  # the latter if this very write evicted it


def test_an_eviction_can_lose_what_the_device_wrote() -> None:
    rig = SmallCache(Mode.SEEDED)
    rig.clean_buffer()
    rig.ram[9] = 9
    while any(draws(rig.model.seed, 0, rig.model.number + 1, 0, 1)):
        rig.read(8 * LINE, 1)
    rig.write(0, NEW)
    _operation_that(rig, 0)
    assert rig.read(0, 1) == OLD
    kinds = [(each.kind, each.by) for each in rig.model.reports.take()]
    assert kinds == [
        (ReportKind.WRITE_TO_DIRTY_LINE, Operation.NO_SNOOP_WRITE),
        (ReportKind.DEVICE_BYTES_LOST, Operation.EVICTION),
    ]


def test_the_same_seed_is_the_same_run() -> None:
    def run(seed: int) -> list[bytes]:
        rig = SmallCache(Mode.SEEDED, seed=seed)
        rig.clean_buffer(length=8 * LINE)
        seen = []
        for step in range(20):
            rig.ram[step * 17 % (8 * LINE)] = step
            rig.write(step * 31 % (8 * LINE), bytes((step,)))
            seen.append(rig.read(0, 8 * LINE) + rig.ram)
        return seen

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_one_line_in_eight_is_drawn_whatever_range_is_asked() -> None:
    whole = draws(1, 2, 3, 0, 4096)
    assert set(whole) == {0x00, 0xFF}
    assert 400 < whole.count(0xFF) < 620
    for first, count in ((0, 1), (511, 2), (512, 512), (700, 1000)):
        assert draws(1, 2, 3, first, count) == whole[first : first + count]


# The release.


def released(rig: SmallCache, tag: int = 7) -> list[ReportKind]:
    rig.model.untrack(tag)
    return rig.kinds()


def test_a_store_that_the_device_may_still_read_is_reported_at_the_release() -> None:
    rig = SmallCache()
    rig.track(length=2 * LINE)
    rig.model.sync_for_device(7, 0, LINE)
    rig.ram[5] = 9
    rig.ram[LINE] = 9  # never given to the device
    rig.model.untrack(7)
    found = rig.report()
    assert (found.kind, found.line, found.lines) == (ReportKind.RELEASED_DIRTY, 0, 1)
    assert found.missing is MissingCall.SYNC_FOR_DEVICE_AGAIN


@pytest.mark.parametrize("length", [1, 8, LINE])
def test_a_store_of_which_the_device_read_older_bytes_is_reported_at_the_release(
    length: int,
) -> None:
    """Though nothing was given to it; only where the device has read the very bytes."""
    for offset in (0, 7):
        rig = SmallCache()
        rig.clean_buffer()
        rig.ram[7] = 9
        rig.read(offset, min(length, LINE - offset))
        rig.model.untrack(7)
        found = rig.model.reports.take()
        read = offset <= 7 < offset + length
        assert [each.kind for each in found] == [ReportKind.RELEASED_DIRTY] * read
        assert [each.missing for each in found] == [MissingCall.SYNC_FOR_DEVICE_AFTER_STORE] * read


def test_what_is_the_cpu_s_own_is_nobody_s_business_at_the_release() -> None:
    for direction in Direction:
        rig = SmallCache()
        rig.track(direction=direction)
        rig.ram[3] = 9  # never used for DMA
        assert not released(rig)
        rig.track(direction=direction)
        rig.ram[3] = 10
        rig.model.sync_for_device(7, 0, LINE)
        rig.read(0, LINE)  # sent
        rig.model.sync_for_cpu(7, 0, LINE)
        rig.ram[:LINE] = bytes(LINE)  # wiped, or a header written anew
        assert not released(rig), direction


@pytest.mark.parametrize("call", ["invalidate_range", "clean_invalidate_range"])
def test_maintenance_that_invalidates_takes_the_bytes_back(call: str) -> None:
    """As complete() does with kIODirectionPrepareNonCoherent."""
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.sync_for_device(7, 0, LINE)
    rig.write(0, NEW)
    getattr(rig.model, call)(7, 0, LINE)
    rig.ram[0] = 9
    assert not released(rig)
    rig.clean_buffer()
    rig.model.sync_for_device(7, 0, LINE)
    rig.ram[0] = 10
    rig.model.clean_range(7, 0, LINE)  # gives, and takes nothing
    rig.ram[0] = 11
    assert released(rig) == [ReportKind.RELEASED_DIRTY]


@pytest.mark.parametrize("late", [False, True])
def test_complete_takes_the_bytes_back_and_changes_no_line(late: bool) -> None:
    """The CPU stored before it, and so while the device owned the bytes."""
    rig = SmallCache()
    rig.track(direction=Direction.OUT)
    rig.model.sync_for_device(7, 0, LINE)
    rig.write(9, NEW)
    before = rig.model.look(Span("ram", 0, 1))
    if late:
        rig.ram[0] = 9
    rig.model.complete(7, 0, LINE)
    assert rig.kinds() == [ReportKind.STORED_WHILE_DEVICE_OWNS] * late
    assert late or rig.model.look(Span("ram", 0, 1)) == before
    rig.ram[0] = 10
    assert released(rig) == [ReportKind.RELEASED_UNREAD]


def test_a_neighbour_s_bytes_in_a_line_are_not_reported_at_the_release() -> None:
    rig = SmallCache()
    rig.track(offset=0, length=32, tag=1)
    rig.track(offset=32, length=32, tag=2)
    for tag in (1, 2):
        rig.model.sync_for_device(tag, 0, 32)
    rig.ram[40] = 9
    rig.read(32, 32)
    rig.write(48, NEW)
    rig.model.reports.take()
    assert not released(rig, 1)
    assert released(rig, 2) == [ReportKind.RELEASED_DIRTY, ReportKind.RELEASED_UNREAD]


# The words of a report.


@pytest.mark.parametrize(
    ("direction", "missing"),
    [
        (Direction.IN, MissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION),
        (Direction.OUT, MissingCall.NONE_DIRECTION_IS_OUT),
    ],
)
def test_a_sync_that_invalidated_nothing_is_not_called_missing(
    direction: Direction, missing: MissingCall
) -> None:
    rig = SmallCache()
    rig.track(direction=direction)
    rig.model.sync_for_device(7, 0, LINE)
    rig.write(0, NEW)
    rig.model.sync_for_cpu(7, 0, LINE, Direction.OUT)
    rig.model.reports.take()
    rig.model.untrack(7)
    found = rig.report()
    assert (found.kind, found.missing) == (ReportKind.RELEASED_UNREAD, missing)


def test_two_parts_of_one_buffer_in_a_line() -> None:
    rig = SmallCache()
    rig.clean_buffer()
    rig.model.sync_for_device(7, 32, 32)
    rig.ram[31] = 9
    rig.write(32, NEW * 32)
    found = rig.report()
    assert (found.missing, found.other) == (MissingCall.NONE_LINE_IS_SHARED, 7)
    rig.model.sync_for_cpu(7, 32, 32)
    found = rig.report()
    assert (found.kind, found.missing) == (
        *(ReportKind.CPU_BYTES_LOST, MissingCall.NONE_LINE_IS_SHARED),
    )


def test_the_bytes_are_of_the_first_line_that_differs() -> None:
    rig = SmallCache()
    rig.clean_buffer(length=4 * LINE)
    rig.model.sync_for_device(7, 0, 4 * LINE)
    rig.write(0, OLD * 2 * LINE + NEW * 2 * LINE)
    rig.model.untrack(7)
    found = rig.report()
    assert (found.line, found.lines, found.offset) == (0, 4, 2 * LINE)
    assert (found.expected, found.seen) == (NEW * LINE, OLD * LINE)
