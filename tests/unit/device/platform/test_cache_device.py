# SPDX-License-Identifier: Apache-2.0
"""The cache model on the bus and by its registers: what moves, what is told, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dma_rehearsal.device.endpoints.dma import Attributes, DmaRefused
from dma_rehearsal.device.endpoints.dma_queue import SEGMENT_BYTES_CACHED, TURN_BYTES_CACHED
from dma_rehearsal.device.exerciser.profile import Profile
from dma_rehearsal.device.layout import (
    CACHE_REPORTS_MAX,
    RING_BYTES_CACHED_LEAST,
    RING_BYTES_CACHED_MAX,
    RING_REFUSED_REASON_SHIFT,
    CacheCommand,
    CacheMissingCall,
    CacheModelMode,
    CacheOperation,
    CacheReport,
    CacheReportKind,
    CacheStatus,
    DmaReason,
    Ext,
    Plat,
    PlatformFeature,
    ProtectionCommand,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.platform import file_memory
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user.model import FileRange
from tests.unit.device.cache_model.cache_board import (
    DATA,
    IN,
    IN_OUT,
    OUT,
    STAGING,
    TAG,
    CacheBoard,
)
from tests.unit.device.exerciser.rings import enable, lay, ring
from tests.unit.device.fakes import BASE, READ_ONLY_BASE, read32, write32
from tests.unit.device.platform.tables import PAGE

LINE = 64
OLD, NEW = b"\x11" * LINE, b"\x22" * LINE
NO_SNOOP = Attributes(no_snoop=True)
WB_PAGE, WT_PAGE, WC_PAGE, UC_PAGE = range(4)


@pytest.fixture
def board() -> CacheBoard:
    made = CacheBoard()
    assert made.configure() is CacheStatus.OK
    return made


@pytest.fixture
def clean(board: CacheBoard) -> CacheBoard:
    """A page of each type that is tracked, holds OLD, and was cleaned."""
    for page in range(4):
        board.store(DATA + page * PAGE, OLD)
        assert board.track(page, tag=page) is CacheStatus.OK
        board.done(CacheCommand.CLEAN, page, length=PAGE)
    return board


def test_discovery() -> None:
    board = CacheBoard()
    assert PlatformFeature.CACHE in PlatformFeature(read32(board.platform, 0, Plat.FEATURES))
    assert read32(board.platform, 0, Plat.CACHE_STATUS) == CacheStatus.NEVER_RUN


@pytest.mark.parametrize(
    ("page", "stored", "written"),
    [(WB_PAGE, OLD, OLD), (WT_PAGE, NEW, OLD), (WC_PAGE, NEW, NEW), (UC_PAGE, NEW, NEW)],
    ids=["WB", "WT", "WC", "UC"],
)
def test_truth_table(clean: CacheBoard, page: int, stored: bytes, written: bytes) -> None:
    """A no-snoop read misses a store, and a load a no-snoop write, until the sync."""
    place = DATA + page * PAGE
    clean.store(place, NEW)
    assert clean.reads(place, LINE) == stored
    assert clean.reads(place, LINE, no_snoop=False) == NEW
    clean.done(CacheCommand.SYNC_FOR_DEVICE, page, length=PAGE)
    assert clean.reads(place, LINE) == NEW
    clean.store(place, OLD)
    clean.done(CacheCommand.SYNC_FOR_DEVICE, page, length=PAGE)
    clean.writes(place, NEW)
    assert clean.load(place, LINE) == written
    clean.done(CacheCommand.SYNC_FOR_CPU, page, length=PAGE)
    assert clean.load(place, LINE) == NEW
    assert clean.kinds() == []


def test_off_is_a_coherent_board() -> None:
    board = CacheBoard()
    board.store(DATA, OLD)
    assert board.reads(DATA, LINE) == OLD
    board.writes(DATA, NEW)
    assert board.load(DATA, LINE) == NEW
    assert board.track() is CacheStatus.BAD_CONFIGURATION


def test_enable_no_snoop_clear_makes_it_snooped(clean: CacheBoard) -> None:
    exerciser = clean.exerciser
    control = exerciser._pcie + 8
    exerciser.region_write(7, control, b"\x00\x00")
    clean.store(DATA, NEW)
    assert clean.reads(DATA, LINE) == NEW


def test_untracked_memory_is_refused_in_strict_mode_alone(board: CacheBoard) -> None:
    assert board.refused(STAGING, LINE, write=True) is DmaReason.CACHE_UNTRACKED
    assert board.refused(STAGING, LINE, write=False) is DmaReason.CACHE_UNTRACKED
    assert board.reads(STAGING, LINE, no_snoop=False) == bytes(LINE)
    board.configure(CacheModelMode.SEEDED)
    board.writes(STAGING, NEW)
    assert board.load(STAGING, LINE) == NEW


def test_a_list_is_refused_whole_and_says_where(clean: CacheBoard) -> None:
    bus = clean.exerciser.bus
    wild = DATA + 4 * PAGE - 10
    parts = [(DATA, NEW), (wild, bytes(20))]
    with pytest.raises(DmaRefused) as refusal:
        bus.write_list(parts, NO_SNOOP)
    assert (refusal.value.reason, refusal.value.address) == (
        DmaReason.CACHE_UNTRACKED,
        DATA + 4 * PAGE,
    )
    clean.done(CacheCommand.INVALIDATE, WB_PAGE, length=PAGE)
    assert clean.load(DATA, LINE) == OLD
    assert bus.read_list([(DATA, 2), (DATA + PAGE, 2)], NO_SNOOP) == [OLD[:2], OLD[:2]]


def test_protection_is_asked_first(clean: CacheBoard) -> None:
    write32(clean.platform, 0, Plat.PROTECTION_CTL, ProtectionCommand.ENABLE)
    assert clean.refused(STAGING, LINE, write=True) is DmaReason.PROTECTION_OUTSIDE
    write32(clean.platform, 0, Plat.PROTECTION_CTL, ProtectionCommand.DISABLE)
    assert clean.refused(STAGING, LINE, write=True) is DmaReason.CACHE_UNTRACKED


def test_other_refusals_are_as_ever(board: CacheBoard) -> None:
    assert board.refused(0x10, 4, write=False) is DmaReason.UNMAPPED
    assert board.refused(READ_ONLY_BASE, 4, write=True) is DmaReason.READ_ONLY


def test_an_asynchronous_dma_passes_the_model(clean: CacheBoard) -> None:
    bus = clean.exerciser.bus
    seen: list[bytes | DmaRefused] = []
    clean.store(DATA, NEW)
    bus.read_async(DATA, LINE, seen.append, NO_SNOOP)
    bus.read_async(DATA, LINE, seen.append)
    bus.write_async(DATA + PAGE, NEW, seen.append, NO_SNOOP)
    clean.exerciser.go_on()
    assert seen == [OLD, NEW, b""]
    assert clean.load(DATA + PAGE, LINE) == OLD
    bus.read_async(STAGING, LINE, seen.append, NO_SNOOP)
    bus.read_async(DATA, LINE, seen.append, NO_SNOOP, by_message=True)
    clean.exerciser.go_on()
    reasons = [each.reason for each in seen[3:] if isinstance(each, DmaRefused)]
    assert reasons == [DmaReason.CACHE_UNTRACKED] * 2


def test_two_functions_share_the_lines(clean: CacheBoard) -> None:
    """The platform's own requests do not cross it."""
    clean.store(DATA, NEW)
    assert clean.platform.bus.read(DATA, LINE, NO_SNOOP) == NEW


def test_a_report_in_the_window_and_in_the_trace(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    board = CacheBoard(trace=trace)
    board.configure()
    board.store(DATA, OLD)
    board.track(direction=IN)
    board.done(CacheCommand.SYNC_FOR_DEVICE, length=PAGE)
    number = board.get64(Plat.CACHE_OPERATION_LO)
    board.store(DATA + 2 * LINE + 3, b"x")
    board.done(CacheCommand.SYNC_FOR_CPU, length=PAGE)
    first, second = board.reports()
    assert first == CacheReport(
        kind=CacheReportKind.STORED_WHILE_DEVICE_OWNS,
        missing=CacheMissingCall.SYNC_FOR_CPU_BEFORE_STORE,
        by=CacheOperation.SYNC_FOR_CPU,
        last=CacheOperation.SYNC_FOR_DEVICE,
        tag=TAG,
        other=TAG,
        line=2,
        lines=1,
        offset=2 * LINE + 3,
        number=number + 1,
        last_number=number,
        expected=b"\0",
        seen=b"x",
    )
    assert second.kind is CacheReportKind.CPU_BYTES_LOST
    assert CacheReport.unpack(first.pack()) == first
    assert board.reports() == []
    trace.close()
    events = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    told = [each for each in events if each["event"] == "cache report"]
    assert [each["kind"] for each in told] == ["STORED_WHILE_DEVICE_OWNS", "CPU_BYTES_LOST"]
    assert told[0]["seen"] == b"x".hex()


def test_more_reports_than_the_window_holds(board: CacheBoard) -> None:
    board.track(direction=OUT)
    count = CACHE_REPORTS_MAX + 5
    for _ in range(count):
        board.done(CacheCommand.SYNC_FOR_CPU, length=LINE, direction=IN)
    assert len(board.reports()) == CACHE_REPORTS_MAX
    assert len(board.reports()) == 5
    for _ in range(300):
        board.done(CacheCommand.SYNC_FOR_CPU, length=LINE, direction=IN)
    assert read32(board.platform, 0, Plat.CACHE_REPORTS_LOST) == 300 - 256


def test_statuses(board: CacheBoard) -> None:
    """Nothing that is refused has changed anything: the buffer is tracked, and as it was."""
    assert board.command(0) is CacheStatus.BAD_COMMAND
    assert board.command(99) is CacheStatus.BAD_COMMAND
    assert board.track(direction=0) is CacheStatus.BAD_DIRECTION
    assert board.track(direction=4) is CacheStatus.BAD_DIRECTION
    assert board.track(0, 17 * PAGE) is CacheStatus.WALK_NOT_PRESENT
    assert board.get64(Plat.CACHE_FAULT_LO) > DATA
    assert board.track(0, 0) is CacheStatus.WALK_BAD_ARGUMENT
    assert board.track(0, PAGE) is CacheStatus.OK
    assert board.track(1, PAGE) is CacheStatus.BAD_BUFFER
    for command in (CacheCommand.CLEAN, CacheCommand.SYNC_FOR_CPU):
        assert board.command(command, 99, length=1) is CacheStatus.BAD_BUFFER
        assert board.command(command, length=PAGE + 1) is CacheStatus.BAD_RANGE
        assert board.command(command, offset=1 << 63, length=1 << 63) is CacheStatus.BAD_RANGE
    assert (
        board.command(CacheCommand.SYNC_FOR_CPU, length=1, direction=4) is CacheStatus.BAD_DIRECTION
    )
    assert board.command(CacheCommand.ANNOUNCE_END, length=1) is CacheStatus.BAD_ANNOUNCEMENT
    assert board.configure(7) is CacheStatus.BAD_CONFIGURATION
    assert board.configure(line=48) is CacheStatus.BAD_CONFIGURATION
    board.done(CacheCommand.UNTRACK)
    board.platform.region_write(7, 4, b"\x02\x00")
    assert board.track() is CacheStatus.BUS_MASTER_OFF


def test_files_of_tracked_memory_are_bounded(
    board: CacheBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client can map ever new files; each that is tracked costs a descriptor."""
    monkeypatch.setattr(file_memory, "MAX_FILES", 2)
    where = board.client.file_ranges

    def elsewhere(address: int, length: int, *, write: bool) -> list[FileRange]:
        return [replace(each, file=name) for each in where(address, length, write=write)]

    monkeypatch.setattr(board.client, "file_ranges", elsewhere)
    for name in ("first", "second"):
        assert board.track(tag=len(name)) is CacheStatus.OK
    assert board.track(1, tag=1) is CacheStatus.OK, "of a file that is kept already"
    name = "third"
    assert board.track(tag=3) is CacheStatus.TOO_MUCH
    for tag in (1, 6):
        board.done(CacheCommand.UNTRACK, tag)
    assert board.track(tag=3) is CacheStatus.OK


def test_the_same_memory_with_another_type_is_busy(board: CacheBoard) -> None:
    """Page 0's entry becomes uncached, as an alias that the kernel let pass would be."""
    assert board.track(0, 100, skip=200) is CacheStatus.OK
    index = 0x7F12_3456_7000 >> 12 & 0x1FF
    board._put(3, index, DATA | 7 | 0x18)
    assert board.track(0, PAGE, tag=9) is CacheStatus.BUSY
    assert board.get64(Plat.CACHE_FAULT_LO) == DATA + 192


def test_an_announced_writer(clean: CacheBoard) -> None:
    clean.done(CacheCommand.SYNC_FOR_DEVICE, length=PAGE, tag=0)
    clean.done(CacheCommand.ANNOUNCE_BEGIN, length=PAGE, tag=0)
    clean.store(DATA, NEW)
    clean.done(CacheCommand.ANNOUNCE_END, length=PAGE, tag=0)
    assert clean.reads(DATA, LINE) == NEW
    clean.done(CacheCommand.SYNC_FOR_CPU, length=PAGE, tag=0)
    assert clean.kinds() == []


@pytest.mark.parametrize("how", ["configure", "reset", "detach"])
def test_what_drops_every_track(clean: CacheBoard, how: str) -> None:
    """Memory is not touched."""
    clean.writes(DATA, NEW)
    if how == "configure":
        clean.configure(CacheModelMode.OFF)
    elif how == "reset":
        clean.platform.device_reset()
    else:
        clean.platform.detach()
    assert clean.platform.interconnect.caches is None
    assert clean.load(DATA, LINE) == OLD
    assert clean.reads(DATA, LINE) == OLD


def test_a_reset_of_the_endpoint_changes_nothing(clean: CacheBoard) -> None:
    clean.store(DATA, NEW)
    clean.exerciser.device_reset()
    clean.exerciser.region_write(7, 4, b"\x06\x00")
    assert clean.reads(DATA, LINE) == OLD


def test_memory_that_the_client_cut(clean: CacheBoard) -> None:
    clean.client.reaches = False
    status = clean.command(CacheCommand.SYNC_FOR_CPU, WB_PAGE, length=PAGE)
    assert status is CacheStatus.MEMORY_GONE
    assert clean.refused(DATA, LINE, write=False) is DmaReason.UNMAPPED
    assert clean.refused(DATA, LINE, write=True) is DmaReason.UNMAPPED
    assert clean.configure() is CacheStatus.OK


def test_a_dma_longer_than_one_operation(
    clean: CacheBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dma_rehearsal.device.platform.cache_path.MAX_OPERATION", 3 * LINE)
    clean.writes(DATA + PAGE, bytes(range(256)) * 3)
    clean.done(CacheCommand.SYNC_FOR_CPU, WT_PAGE, length=PAGE)
    assert clean.load(DATA + PAGE, 768) == bytes(range(256)) * 3
    assert clean.reads(DATA + PAGE, 768) == bytes(range(256)) * 3


def test_a_buffer_over_pages_of_several_types(board: CacheBoard) -> None:
    """From inside the first page into the second: lines that begin before the buffer count."""
    board.store(DATA + PAGE - 100, OLD + OLD[:36])
    assert board.track(0, 200, skip=PAGE - 100, direction=IN_OUT) is CacheStatus.OK
    board.done(CacheCommand.CLEAN, length=200)
    assert board.reads(DATA + PAGE - 128, 128)[28:] == OLD + OLD[:36]
    board.store(DATA + PAGE, NEW)
    assert board.reads(DATA + PAGE, LINE) == NEW, "write-through from the second page on"
    assert board.refused(DATA + PAGE - 129, 2, write=False) is DmaReason.CACHE_UNTRACKED
    board.done(CacheCommand.UNTRACK)
    assert board.refused(DATA + PAGE, 2, write=False) is DmaReason.CACHE_UNTRACKED
    assert BASE < DATA


def test_an_access_to_many_pieces_is_refused_by_name(board: CacheBoard) -> None:
    """Twelve lines of as many buffers; a part of them is reached, and the next one whole."""
    for tag in range(12):
        assert board.track(0, LINE, tag=tag, skip=tag * LINE) is CacheStatus.OK
        board.done(CacheCommand.CLEAN, tag, length=LINE)
    for no_snoop in (False, True):
        for write in (False, True):
            reason = board.refused(DATA, 12 * LINE, write=write, no_snoop=no_snoop)
            assert reason is DmaReason.CACHE_SCATTERED
        board.writes(DATA, bytes(9 * LINE), no_snoop=no_snoop)
    board.done(CacheCommand.UNTRACK, 3)
    assert board.refused(DATA, 12 * LINE, write=True) is DmaReason.CACHE_UNTRACKED


def test_a_doorbell_does_less_at_once_behind_a_cache(board: CacheBoard) -> None:
    """Each descriptor counts as 16 KiB at least; the same index rung again goes on."""
    lay(board.client, [RingDescriptor(DATA, 4, 0, 0)] * 4096)
    board.track()
    board.done(CacheCommand.CLEAN, length=PAGE)
    enable(board.exerciser, 4096)
    turn = RING_BYTES_CACHED_MAX // RING_BYTES_CACHED_LEAST
    assert ring(board.exerciser, 3000) == (RingStatus.BUDGET, turn)
    assert ring(board.exerciser, 3000) == (RingStatus.BUDGET, 2 * turn)
    assert ring(board.exerciser, 3000) == (RingStatus.OK, 3000)
    board.configure(CacheModelMode.OFF)
    assert ring(board.exerciser, 2999) == (RingStatus.OK, 2999)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_turn_of_started_dmas_does_less_behind_a_cache(board: CacheBoard, parts: int) -> None:
    """Each segment counts as 16 KiB at least; the next turn goes on."""
    bus, done = board.exerciser.bus, 0

    def again(outcome: object = None) -> None:
        nonlocal done
        assert not isinstance(outcome, DmaRefused)
        done += outcome is not None
        if done < count:
            bus.read_list_async([(STAGING, 4)] * parts, again)

    turn = TURN_BYTES_CACHED // SEGMENT_BYTES_CACHED // parts
    count = 2 * turn + 1
    again()
    for so_far in (turn, 2 * turn, count):
        board.exerciser.go_on()
        assert done == so_far
    board.configure(CacheModelMode.OFF)
    done = 0
    again()
    board.exerciser.go_on()
    assert done == count


def test_a_transfer_that_is_too_long_behind_a_cache(board: CacheBoard) -> None:
    part = 8 * PAGE
    count = RING_BYTES_CACHED_MAX // part
    chain = [RingDescriptor(DATA, part, 0, RingFlag.CHAIN)] * count
    lay(board.client, [*chain, RingDescriptor(DATA, 4, 0, 0)])
    enable(board.exerciser, 4096)
    assert ring(board.exerciser, count + 1) == (RingStatus.REFUSED, 0)
    refused = read32(board.exerciser, 3, Ext.RING_REFUSED)
    assert refused >> RING_REFUSED_REASON_SHIFT == DmaReason.TRANSFER_SIZE
    lay(board.client, [*chain[1:], RingDescriptor(DATA, part, 0, 0)])
    enable(board.exerciser, 4096)
    assert ring(board.exerciser, count) == (RingStatus.OK, count)
    board.configure(CacheModelMode.OFF)
    lay(board.client, [*chain, RingDescriptor(DATA, 4, 0, 0)])
    enable(board.exerciser, 4096)
    assert ring(board.exerciser, count + 1) == (RingStatus.OK, count + 1)


def test_a_device_that_is_never_snooped_meets_dram_whatever_it_asks() -> None:
    board = CacheBoard(profile=Profile(coherent=False))
    board.store(DATA, OLD)
    assert board.reads(DATA, LINE, no_snoop=False) == OLD, "no model, no caches"
    assert board.configure() is CacheStatus.OK
    assert board.track() is CacheStatus.OK
    board.done(CacheCommand.CLEAN, length=PAGE)
    board.store(DATA, NEW)
    assert board.reads(DATA, LINE, no_snoop=False) == OLD
    board.writes(DATA + LINE, NEW, no_snoop=False)
    assert board.load(DATA + LINE, LINE) == bytes(LINE)
    assert board.refused(STAGING, LINE, write=True, no_snoop=False) is DmaReason.CACHE_UNTRACKED
