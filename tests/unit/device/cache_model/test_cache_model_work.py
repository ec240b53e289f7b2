# SPDX-License-Identifier: Apache-2.0
"""The work of the cache model in one command, and the memory it holds, have bounds."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

import pytest

from dma_rehearsal.device.cache_model import names
from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import (
    MAX_ANNOUNCED,
    MAX_PIECES_OF_ACCESS,
    MAX_SHARERS,
    Direction,
    Mode,
    Scattered,
    Span,
    TooMuch,
)
from dma_rehearsal.device.cache_model.reports import Reports
from dma_rehearsal.device.cache_model.snapshots import Held, Snapshots
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.cache_work import QuickMemory, TooMuchWork, steps
from tests.unit.device.cache_model.small_cache import NEW, WB, WT

LINE = 32
SIZE = 2 << 20
LINES = SIZE // LINE
REPORTS = 16  # fewer than there can be, for each costs its steps
MOST = 2 * LINES  # less than any loop over the lines takes
LESS = "dma_rehearsal.device.cache_model.model."


class Hostile:
    """A model over 2 MiB of the smallest lines, tracked as buffer 0."""

    def __init__(self, mode: Mode = Mode.STRICT, kind: MemoryType = WB) -> None:
        self.ram = bytearray(SIZE)
        self.kind = kind
        self.model = CacheModel(QuickMemory({"ram": self.ram}), mode, LINE, seed=1)
        self.model._reporter.reports = Reports(REPORTS)
        self.track(0)

    def track(self, tag: int, offset: int = 0, length: int = SIZE) -> None:
        self.model.track(tag, Direction.IN_OUT, [(Span("ram", offset, length), self.kind)])

    def stores(self) -> None:
        """Change every other byte of every other line."""
        for first in range(0, LINE, 2):
            changed = self.ram[first :: 2 * LINE]
            self.ram[first :: 2 * LINE] = bytes(each ^ 1 for each in changed)

    def read(self, *, no_snoop: bool = True) -> bytes:
        return self.model.read([Span("ram", 0, SIZE)], no_snoop=no_snoop)

    def write(self, *, no_snoop: bool = True) -> None:
        self.model.write([Span("ram", 0, SIZE)], b"\x55" * SIZE, no_snoop=no_snoop)


# Actions of a guest beforehand.


def nothing(_: Hostile) -> None:
    """A buffer that was tracked, and no more."""


def stored(rig: Hostile) -> None:
    rig.model.sync_for_device(0, 0, SIZE)
    rig.stores()


def stale(rig: Hostile) -> None:
    stored(rig)
    rig.read()
    rig.stores()


def received(rig: Hostile) -> None:
    rig.model.clean_invalidate_range(0, 0, SIZE)
    rig.stores()
    rig.write()
    rig.stores()


def shared(rig: Hostile) -> None:
    """As many buffers and announcements as there may be, with copies in many pieces."""
    for tag in range(1, MAX_SHARERS):
        rig.track(tag)
        for offset in range(0, SIZE, SIZE // 16):
            rig.model.sync_for_device(tag, offset + tag, 1)
    for index in range(MAX_ANNOUNCED):
        rig.model.announce_begin(index % MAX_SHARERS, 0, SIZE - index // MAX_SHARERS)
    rig.stores()
    rig.write()
    rig.stores()


def taken(rig: Hostile) -> None:
    """Every line has a last operation of its own, within reason."""
    for offset in range(0, SIZE, 64 * LINE):
        rig.model.clean_range(0, offset, LINE)
    received(rig)


BEFORE = [nothing, stored, stale, received, shared, taken]
PART = (0, 0, SIZE)
OPERATIONS: dict[str, Callable[[Hostile], object]] = {
    "track": lambda rig: rig.track(99, LINE, SIZE - 2 * LINE),
    "untrack": lambda rig: rig.model.untrack(0),
    "clean": lambda rig: rig.model.clean_range(*PART),
    "invalidate": lambda rig: rig.model.invalidate_range(*PART),
    "clean and invalidate": lambda rig: rig.model.clean_invalidate_range(*PART),
    "sync for device": lambda rig: rig.model.sync_for_device(*PART),
    "sync for cpu": lambda rig: rig.model.sync_for_cpu(*PART),
    "complete": lambda rig: rig.model.complete(*PART),
    "announce": lambda rig: rig.model.announce_begin(0, 1, SIZE - 1),
    "read": lambda rig: rig.read(),
    "write": lambda rig: rig.write(),
    "snooped read": lambda rig: rig.read(no_snoop=False),
    "snooped write": lambda rig: rig.write(no_snoop=False),
}


@pytest.mark.parametrize("mode", [Mode.STRICT, Mode.SEEDED])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operations_work_does_not_grow_with_lines_and_runs(
    name: str, before: Callable[[Hostile], None], mode: Mode
) -> None:
    rig = Hostile(mode)
    before(rig)
    if before is shared:  # make room for one more
        rig.model.untrack(1)
    assert steps(lambda: OPERATIONS[name](rig), MOST)


@pytest.mark.parametrize("name", ["sync for cpu", "write", "untrack"])
def test_nor_in_write_through_memory(name: str) -> None:
    rig = Hostile(kind=WT)
    received(rig)
    assert steps(lambda: OPERATIONS[name](rig), MOST)


def test_the_end_of_an_announcement() -> None:
    rig = Hostile()
    shared(rig)
    assert steps(lambda: rig.model.announce_end(3, 0, SIZE), MOST)


def test_the_count_fires() -> None:
    """A step for each line is more than an operation may take."""
    rig = Hostile()
    with pytest.raises(TooMuchWork):
        steps(lambda: [rig.model.look(Span("ram", i, 1)) for i in range(0, SIZE, LINE)], MOST)


# Buffers that cut each other into pieces.


def test_an_access_to_many_pieces_is_refused_whole() -> None:
    ram = bytearray(4096)
    model = CacheModel(QuickMemory({"ram": ram}), Mode.SEEDED, LINE)
    for tag in range(16):
        model.track(tag, Direction.IN_OUT, [(Span("ram", tag * LINE, LINE), WB)])
    fits = (MAX_PIECES_OF_ACCESS + 1) * LINE
    for no_snoop in (False, True):
        model.write([Span("ram", 0, fits)], NEW * fits, no_snoop=no_snoop)
        for length in (fits + 1, 2048):
            for call in (model.check, model.read):
                with pytest.raises(Scattered) as failure:
                    call([Span("ram", 0, length)], no_snoop=no_snoop)
                assert failure.value.offset == 0
            with pytest.raises(Scattered):
                model.write([Span("ram", 0, length)], bytes(length), no_snoop=no_snoop)
    assert ram[:fits] == NEW * fits


def test_pages_of_one_buffer_are_no_pieces_too_many() -> None:
    """As many pages as a buffer has, none beside the other."""
    model = CacheModel(QuickMemory({"ram": bytearray(1 << 20)}), Mode.STRICT, LINE)
    spans = [Span("ram", page * 8192, 4096) for page in range(128)]
    model.track(1, Direction.IN_OUT, [(span, WB) for span in spans])
    model.clean_range(1, 0, 128 * 4096)
    assert len(model.read(spans, no_snoop=True)) == 128 * 4096


def test_pieces_and_sharers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Hostile()
    for tag in range(1, MAX_SHARERS):
        rig.track(tag)
    with pytest.raises(TooMuch, match="16 buffers track offset 0x0"):
        rig.track(99, 0, 1)  # they are large
    rig.model.untrack(5)
    rig.track(99, 0, 1)
    many = [(Span("ram", 0, LINE), WB)] * (MAX_SHARERS + 1)
    empty = CacheModel(QuickMemory({"ram": bytearray(LINE)}), Mode.STRICT, LINE)
    with pytest.raises(TooMuch, match="one buffer that has memory 17 times"):
        empty.track(1, Direction.IN, many)
    empty.track(1, Direction.IN, many[1:])
    monkeypatch.setattr(LESS + "MAX_PIECES", 8)
    other = Hostile()
    for tag in range(1, 4):
        other.track(tag, 4 * LINE * tag, LINE)
    with pytest.raises(TooMuch, match="pieces of memory with different buffers"):
        other.track(4, 16 * LINE, LINE)
    other.model.untrack(1)
    other.track(4, 16 * LINE, LINE)


def test_a_buffer_that_others_cut_has_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an operation on it does not take longer, however many buffers lie in it."""
    monkeypatch.setattr(LESS + "MAX_PIECES_OF_BUFFER", 9)
    rig = Hostile()
    for tag in range(1, 5):
        rig.track(tag, 4 * LINE * tag, LINE)
    assert rig.model.cost(0) == SIZE + 9 * 128
    with pytest.raises(TooMuch, match="11 pieces of buffer 0x0, which others share; at most 9"):
        rig.track(5, 40 * LINE, LINE)
    rig.model.untrack(2)
    rig.track(5, 40 * LINE, LINE)
    for tag in (1, 3, 4, 5):
        rig.model.untrack(tag)
    assert rig.model.cost(0) == SIZE + 128
    assert rig.model.cost(0, LINE) == LINE + 128
    assert rig.model.cost(99) == 0
    rig.model.untrack(0)
    for tag in range(1, 5):
        rig.track(tag, 4 * LINE * tag, LINE)
    rig.track(5, 40 * LINE, LINE)
    with pytest.raises(TooMuch, match="11 pieces of buffer 0x8"):
        rig.track(8, 0, SIZE)


def test_many_small_buffers_may_share_a_line() -> None:
    """A driver maps one page of zeros for each frame that it sends."""
    page, most = 4096, names.MAX_SMALL_SHARERS
    model = CacheModel(QuickMemory({"ram": bytearray(2 * page)}), Mode.STRICT, LINE)
    runs = [(Span("ram", 0, page), WB)]
    for tag in range(most):
        model.track(tag, Direction.OUT, runs, stored=True)
        model.sync_for_device(tag, 0, page)
    with pytest.raises(TooMuch, match=f"{most} buffers track offset 0x0"):
        model.track(most, Direction.OUT, [(Span("ram", 0, 1), WB)])
    model.untrack(7)
    with pytest.raises(TooMuch, match=f"{most - 1} buffers track offset 0x0"):
        model.track(7, Direction.OUT, [(Span("ram", 0, 2 * page), WB)])
    model.track(7, Direction.OUT, runs)
    assert model.read([Span("ram", 0, page)], no_snoop=True) == bytes(page)
    for tag in range(most):
        model.untrack(tag)
    assert len(model.reports) == 0
    assert model.retained == 0


# Real rings.

RING = 65536  # mappings that are in force at once


def test_a_ring_of_small_buffers_fits() -> None:
    """Each has 64 bytes in a place of its own, and is synced: measured with 1,000 of them."""
    size, some = 64, 1000
    model = CacheModel(QuickMemory({"ram": bytearray(2 * size * some)}), Mode.STRICT, size)
    for tag in range(some):
        model.track(tag, Direction.IN, [(Span("ram", 2 * size * tag, size), WB)])
        model.sync_for_device(tag, 0, size)
    last = Snapshots.most(size) + names.BUFFER_COST + names.SPAN_COST + 3 * names.PIECE_COST
    assert model.retained * RING // some + last <= names.MAX_RETAINED
    assert 2 * RING <= names.MAX_PIECES
    assert RING * size <= names.MAX_TRACKED


def test_a_ring_of_frames_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of what is tracked goes: 4,096 frames of 2 KiB fit, 65,536 do not."""
    frame, some = 2048, 100
    model = CacheModel(QuickMemory({"ram": bytearray(2 * frame * some)}), Mode.STRICT, 64)

    def receive(tag: int) -> None:
        model.track(tag, Direction.IN, [(Span("ram", 2 * frame * tag, frame), WB)])
        model.sync_for_device(tag, 0, frame)

    for tag in range(some - 1):
        receive(tag)
    assert model.retained * 4096 // some <= names.MAX_RETAINED <= model.retained * RING // some
    assert RING * frame <= names.MAX_TRACKED
    monkeypatch.setattr(LESS + "MAX_RETAINED", model.retained)
    with pytest.raises(TooMuch, match="bytes held; at most"):
        receive(some - 1)
    assert model.tracked_size == (some - 1) * frame


# Memory that is held.


def _snapshots(rig: Hostile) -> None:
    for tag in range(1, MAX_SHARERS):
        rig.track(tag)
        rig.model.sync_for_device(tag, 0, SIZE)


def _holes(rig: Hostile) -> None:
    for offset in range(0, SIZE, 8192):
        rig.model.sync_for_device(0, offset, 4096)
        rig.model.sync_for_device(0, offset + 5000, 8)


def _small(rig: Hostile) -> None:
    rig.model.untrack(0)
    for tag in range(2000):
        rig.track(tag, tag * 64, 16)
        rig.model.sync_for_device(tag, 0, 16)


def _announcements(rig: Hostile) -> None:
    for length in range(MAX_ANNOUNCED):
        rig.model.announce_begin(0, 0, SIZE - length)


def _reports(rig: Hostile) -> None:
    received(rig)
    rig.model.sync_for_cpu(0, 0, SIZE)


@pytest.mark.parametrize("fills", [_snapshots, _holes, _small, _announcements, _reports])
def test_what_is_held_is_no_more_than_what_is_counted(fills: Callable[[Hostile], None]) -> None:
    rig = Hostile()
    rig.model.untrack(0)
    assert rig.model.retained == 0
    rig.track(0)  # whatever Python keeps of the first run is there
    rig.model.untrack(0)
    tracemalloc.start()
    try:
        rig.track(0)
        fills(rig)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert SIZE // 8 < held < rig.model.retained
    rig.model.reports.take()
    for tag in range(2000):
        with pytest.MonkeyPatch.context():
            if tag in rig.model._buffers:
                rig.model.untrack(tag)
    rig.model.reports.take()
    assert rig.model.retained == 0


@pytest.mark.parametrize("call", ["track", "sync_for_device", "announce_begin"])
def test_what_needs_room_is_refused_where_there_is_none(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has changed then; and there is room again when something is let go."""
    rig = Hostile()
    half = SIZE // 2
    needs: dict[str, Callable[[], None]] = {
        "track": lambda: rig.track(1, 0, half),
        "sync_for_device": lambda: rig.model.sync_for_device(0, 0, half),
        "announce_begin": lambda: rig.model.announce_begin(0, 0, half),
    }
    rig.model.sync_for_device(0, half, half)
    held = rig.model.retained
    monkeypatch.setattr(LESS + "MAX_RETAINED", held)
    with pytest.raises(TooMuch, match="bytes held; at most"):
        needs[call]()
    assert rig.model.retained == held
    assert rig.model.look(Span("ram", half, 1)).dirty is False  # type: ignore[union-attr]
    rig.model.complete(0, half, half)
    monkeypatch.setattr(LESS + "MAX_RETAINED", held + Snapshots.most(half))
    needs[call]()


def test_ever_new_tags_on_the_same_memory_end() -> None:
    rig = Hostile()
    for tag in itertools.count(1):
        try:
            rig.track(tag)
        except TooMuch:
            break
        rig.model.sync_for_device(tag, 0, SIZE)
        assert rig.model.retained <= names.MAX_RETAINED
    assert tag == MAX_SHARERS


# Snapshots.


def test_copies_of_many_ranges_are_few() -> None:
    held = Held()
    copies = Snapshots(held)
    for offset in range(1, 1 << 16, 2):
        copies.put("ram", offset, b"\x01")
    assert len(copies) == 1
    assert copies.expected("ram", 0, bytes(1 << 16)) == b"\0\1" * (1 << 15)
    copies.patch("ram", 0, b"\x07" * 8, b"\xff" * 4 + bytes(4))
    assert copies.expected("ram", 0, bytes(8)) == b"\0\7\0\7\0\1\0\1"
    copies.drop("ram", 0, 1 << 15)
    copies.drop("ram", (1 << 16) - 100, 100)
    assert copies.expected("ram", 0, bytes(1 << 16)).count(1) == (1 << 14) - 50
    copies.drop("ram", 0, 1 << 16)
    assert (len(copies), held.size) == (0, 0)


def test_copies_that_lie_apart_stay_apart() -> None:
    copies = Snapshots()
    for offset in (1 << 20, 0, 1 << 19):
        copies.put("ram", offset, b"x")
    copies.put("rom", 0, b"y")
    assert len(copies) == 4
    assert copies.expected("ram", 0, b"ab") == b"xb"
    assert copies.expected("ram", 1 << 19, b"ab") == b"xb"
    copies.put("ram", 1, bytes(1 << 20))
    assert len(copies) == 2
