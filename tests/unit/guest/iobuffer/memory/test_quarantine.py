# SPDX-License-Identifier: Apache-2.0
"""Released memory rests: for how long, in which order, and for whom it ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IONoMemoryError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, RangeAllocator
from dma_rehearsal.guest.iobuffer.memory import pool_registry, resting_pins
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap import Heap
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.page_locks import PageLocks
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.quarantine import RANGES_MAX, Quarantine, RestingRanges
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping
from tests.unit.guest.memory_pool import MemoryPool, make

MIB = 1 << 20
ZONE = Zone("main", 0x0C00_0000, 4 * MIB)


def place(buffer: IOBufferMemoryDescriptor) -> int:
    return buffer.getPhysicalAddress()


# Ranges.


def test_the_oldest_go_first_by_bytes_and_by_number() -> None:
    resting = Quarantine(100)
    assert [resting.add(start, 40) for start in (0, 200, 100)] == [[], [], [(0, 40)]]
    assert list(resting) == [(200, 40), (100, 40)]
    assert resting.add(1000, 500) == [(200, 40), (100, 40)], "the newest rests in any case"
    assert resting.size == 500
    many = Quarantine(1 << 40)
    gone = [each for start in range(RANGES_MAX + 3) for each in many.add(start, 1)]
    assert gone == [(0, 1), (1, 1), (2, 1)]


@given(
    starts=st.lists(st.integers(0, 30), unique=True),
    size=st.integers(1, 4),
    look=st.tuples(st.integers(0, 130), st.integers(1, 60)),
)
def test_within_finds_what_has_a_part_there(
    starts: list[int], size: int, look: tuple[int, int]
) -> None:
    resting = Quarantine(1 << 40)
    for start in starts:
        resting.add(4 * start, size)
    first, length = look
    found = [
        (4 * each, size)
        for each in sorted(starts)
        if 4 * each < first + length and first < 4 * each + size
    ]
    assert list(resting.within(first, length)) == found
    assert resting.wake_within(first, length) == found
    assert len(resting) == len(starts) - len(found)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "give", "give unused"]), st.integers(1, 9)), max_size=60
    )
)
def test_ranges_come_back_before_their_time_only_to_one_that_would_fail(
    steps: list[tuple[str, int]],
) -> None:
    ranges = RestingRanges()
    ranges.add(0, 64)
    live: dict[int, int] = {}
    rested: list[tuple[int, int]] = []
    for what, size in steps:
        if what == "take":
            fits = any(room >= size for _, room in ranges.rested())
            start = ranges.allocate(size)
            if start is None:
                assert ranges.largest < size
                continue
            asleep = any(at < start + size and start < at + n for at, n in rested)
            assert not (fits and asleep)
            live[start] = size
        elif live:
            start = list(live)[size % len(live)]
            ranges.free(start, rest=what == "give")
            live.pop(start)
        rested = list(ranges._resting)
        assert ranges.free_size == 64 - sum(live.values()) == sum(n for _, n in ranges.runs())
        assert ranges._resting.size <= 32 or len(ranges._resting) == 1
    with pytest.raises(IOBadArgumentError):
        ranges.free(1000)


# Carve-outs.


def test_pages_rest_until_nothing_else_is_left(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    first = pool.allocate(MIB, PAGE)
    pool.free(first)
    assert pool.free_size() == ZONE.size
    others = [pool.allocate(MIB, PAGE) for _ in range(3)]
    assert first not in others
    assert pool.allocate(MIB, PAGE) == first
    with pytest.raises(IONoMemoryError):
        pool.allocate(PAGE, PAGE)


def test_an_allocation_in_vain_wakes_nothing(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    first = pool.allocate(MIB, PAGE)
    pool.free(first)
    with pytest.raises(IONoMemoryError) as error:
        pool.allocate(ZONE.size + PAGE, PAGE)
    assert error.value.largest == ZONE.size
    assert pool.allocate(MIB, PAGE) != first
    pool.wake()
    assert pool.allocate(MIB, PAGE) == first


def test_what_rests_is_left_alone_by_other_processes_as_long_as_they_can(tmp_path: Path) -> None:
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    first = ours.allocate(MIB, PAGE)
    ours.free(first)
    assert theirs.free_size() == ZONE.size, "no arena is kept for it"
    others = [theirs.allocate(MIB, PAGE) for _ in range(3)]
    assert first not in others
    assert theirs.allocate(MIB, PAGE) == first


def test_whoever_takes_the_arena_inherits_what_rests_in_it(tmp_path: Path) -> None:
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    first = ours.allocate(PAGE, PAGE)
    ours.free(first)
    held = [theirs.allocate(PAGE, PAGE) for _ in range(ZONE.size // PAGE - 1)]
    assert first not in held
    ours.close()  # their own quarantine has it by now
    assert theirs.allocate(PAGE, PAGE) == first


def test_claims_rest_whoever_lets_go_last(tmp_path: Path) -> None:
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    claim = ours.claim(MIB, PAGE)
    adopted = theirs.adopt(os.dup(claim.fd), claim.extent)
    claim.close()
    adopted.close()
    adopted.close()
    for pool in (ours, theirs):
        with ExitStack() as stack:
            others = []
            for _ in range(3):
                others.append(pool.claim(MIB, PAGE))
                stack.callback(others[-1].close)
            assert claim.extent not in [each.extent for each in others]
            last = pool.claim(MIB, PAGE)
            assert last.extent == claim.extent
            last.close()
        pool.wake()
    ours.wake()
    assert ours.claim(MIB, PAGE).extent == claim.extent


def test_what_a_dead_process_let_rest_is_free(tmp_path: Path) -> None:
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    first = ours.allocate(PAGE, PAGE)
    ours.free(first)
    ours.close()
    assert theirs.allocate(PAGE, PAGE) == first


def test_an_arena_without_a_buffer_is_anybodys_and_what_rests_in_it_rests(tmp_path: Path) -> None:
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    given = []
    for _ in range(20):
        given.append(ours.allocate(PAGE, PAGE))
        ours.free(given[-1])
        assert not ours._locks.held_by_another(0, 1)
        assert list(theirs._locks.available()) == [(0, ZONE.size // PAGE)], "no arena is kept"
    assert len(set(given)) == len(given)
    whole = theirs.allocate(ZONE.size, PAGE)
    with pytest.raises(IONoMemoryError) as error:
        ours.allocate(PAGE, PAGE)
    assert error.value.largest == 0
    theirs.free(whole)
    mine = ours.allocate(PAGE, PAGE)
    assert not any(theirs.allocate(PAGE, PAGE) == mine for _ in range(40))


def test_an_arena_that_somebody_had_meanwhile_is_looked_at_anew(tmp_path: Path) -> None:
    """Resting ranges of others are left alone, and a claim within them is another's memory."""
    zone = Zone("z", 0x1000_0000, 32 * PAGE)  # each page is an arena
    ours, theirs = (CarveoutPool(zone, locks=tmp_path) for _ in range(2))
    first = ours.allocate(PAGE, PAGE)
    ours.free(first)
    late = theirs.allocate(PAGE, PAGE)
    theirs.free(late)
    near = ours.allocate(PAGE, PAGE)
    assert near not in (first, late)
    ours.free(near)
    for pool in (theirs, ours):
        claims = [pool.claim(PAGE, PAGE) for _ in range(zone.size // PAGE)]
        with pytest.raises(IONoMemoryError):
            ours.allocate(PAGE, PAGE)
        for each in claims:
            each.close()
    assert ours.free_size() == zone.size


def test_what_rested_meanwhile_in_an_empty_arena_is_left_alone(tmp_path: Path) -> None:
    """Another process's page, and a claim of ours, as long as there is another place."""
    zone = Zone("z", 0x1000_0000, 64 * 4 * PAGE)
    ours, theirs = (CarveoutPool(zone, locks=tmp_path) for _ in range(2))
    first = ours.allocate(PAGE, PAGE)
    ours.free(first)
    late = theirs.allocate(PAGE, PAGE)
    theirs.free(late)
    assert late.address == first.end
    assert ours.allocate(PAGE, PAGE).address == late.end
    others = theirs.allocate(62 * 4 * PAGE, PAGE)
    last = ours.allocate(2 * PAGE, PAGE)
    assert last.address == others.end, "in the one arena that is left"
    ours.free(last)
    claim = ours.claim(PAGE, PAGE)
    assert claim.extent.end == zone.start + zone.size
    claim.close()
    ours.allocate(PAGE, PAGE)  # the first arena's last one
    assert ours.allocate(PAGE, PAGE).address == claim.extent.address - PAGE
    assert ours.allocate(PAGE, PAGE) not in (claim.extent, late), "the oldest is the next"


def test_an_empty_arena_is_not_locked_for_what_it_is_too_small_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process would find it taken just then, in vain."""
    ours, theirs = (CarveoutPool(ZONE, locks=tmp_path) for _ in range(2))
    theirs.allocate(ZONE.size - ZONE.arena_size, PAGE)
    ours.free(ours.allocate(PAGE, PAGE))
    tried: list[tuple[int, int]] = []
    acquire = ours._locks.acquire

    def noted(first: int, count: int) -> bool:
        tried.append((first, count))
        return acquire(first, count)

    monkeypatch.setattr(ours._locks, "acquire", noted)
    with pytest.raises(IONoMemoryError):
        ours.allocate(ZONE.arena_size + PAGE, PAGE)
    assert tried == []
    ours.allocate(PAGE, PAGE)
    assert len(tried) == 1


def test_what_rests_does_not_slow_an_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: the calls of the kernel, and the ranges that are cut."""
    pool = CarveoutPool(Zone("z", 0x1000_0000, 64 * 256 * PAGE), locks=tmp_path)
    calls: list[str] = []

    def counted(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def count(*given: object) -> object:
            calls.append(name)
            return plain(*given)

        monkeypatch.setattr(owner, name, count)

    counted(PageLocks, "_fcntl")
    counted(RangeAllocator, "exclude")
    seen = []
    for _ in range(250):  # within one arena of 256 pages
        calls.clear()
        pool.free(pool.allocate(PAGE, PAGE))
        seen.append(len(calls))
    assert max(seen[2:]) <= 5
    assert seen[0] > 0


def overlapping(extents: list[Extent]) -> bool:
    ordered = sorted(extents, key=lambda each: each.address)
    return any(one.end > two.address for one, two in pairwise(ordered))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["allocate", "claim", "free", "wake"]),
            st.integers(0, 1),
            st.integers(1, 40),
        ),
        max_size=80,
    )
)
def test_two_processes_never_share_and_get_all_back(steps: list[tuple[str, int, int]]) -> None:
    zone = Zone("z", 0x1000_0000, 128 * PAGE)
    with tempfile.TemporaryDirectory() as folder:
        both = [CarveoutPool(zone, locks=Path(folder)) for _ in range(2)]
        live: list[tuple[CarveoutPool, Extent, object]] = []

        def end(index: int) -> None:
            pool, extent, claim = live.pop(index)
            if claim is None:
                pool.free(extent)
            else:
                claim.close()  # type: ignore[attr-defined]

        for what, who, count in steps:
            pool = both[who]
            with suppress(IONoMemoryError):
                if what == "allocate":
                    live.append((pool, pool.allocate(count * PAGE, PAGE), None))
                elif what == "claim":
                    claim = pool.claim(count * PAGE, PAGE)
                    live.append((pool, claim.extent, claim))
                elif what == "wake":
                    pool.wake()
                elif live:
                    end(count % len(live))
            assert not overlapping([extent for _, extent, _ in live])
        while live:
            end(0)
        for pool in both:
            assert pool.free_size() == zone.size
            whole = pool.allocate(zone.size, PAGE)
            pool.free(whole)
        for pool in both:
            pool.close()


# Buffers.


def test_a_block_rests_while_its_page_is_in_use(main: MemoryPool) -> None:
    with make(64) as neighbour, make(64) as early:
        late = place(early)
        early.release()
        page = [make(64) for _ in range(PAGE // 64)]
        assert late not in map(place, page)
        assert {place(each) & -PAGE for each in page} > {place(neighbour) & -PAGE}
        for each in page:
            each.release()
    assert main.free_size() == main.size


def test_blocks_come_back_when_the_pool_is_full(main: MemoryPool) -> None:
    with ExitStack() as stack:
        for _ in range(main.size // PAGE - 1):
            stack.enter_context(make(PAGE, pool="main"))
        stack.enter_context(make(64, pool="main"))
        early = make(64, pool="main")
        late = place(early)
        early.writeBytes(0, b"secret")
        early.release()
        with ExitStack() as blocks:
            given = [blocks.enter_context(make(64, pool="main")) for _ in range(PAGE // 64 - 1)]
            assert place(given[-1]) == late, "the last one has it"
            assert given[-1].readBytes(0, 64) == bytes(64)
            with pytest.raises(IONoMemoryError):
                make(64, pool="main")
    assert main.free_size() == main.size


def test_blocks_that_rest_are_bounded(main: MemoryPool) -> None:
    with make(64):
        for _ in range(3000):
            make(64).release()
        assert main.size - main.free_size() <= (256 << 10) + PAGE
    assert main.free_size() == main.size


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[MemoryPool]:
    """A pool whose arenas have 16 pages each."""
    pool = MemoryPool(Zone("main", 0x0C00_0000, 64 * 16 * PAGE), tmp_path)
    dma_platform.use_pools(HeapPool(pool))
    yield pool
    dma_platform.use_pools()
    pool.close()
    os.close(pool.fd)


def heap_of(pool: MemoryPool) -> Heap:
    found = pool_registry.named(pool.name)
    assert isinstance(found, HeapPool)
    return found.heap


def mapping_of(buffer: IOBufferMemoryDescriptor) -> Mapping:
    backing = buffer._backing
    assert backing is not None
    assert backing.mapping is not None
    return backing.mapping


def test_an_empty_page_is_kept_beside_a_buffer(roomy: MemoryPool) -> None:
    """So it is not mapped for each small buffer that comes and goes; they rest as they did."""
    with make(5 * PAGE):
        pool = pool_registry.named("main")
        before = pool.free_size()
        places = []
        for _ in range(64):
            with make(PAGE // 64) as small:
                places.append(place(small))
            assert pool.free_size() == before
        assert len(roomy.mapped) == 2
        assert len(set(places)) == len(places)
        assert len({each & -PAGE for each in places}) == 1
        with make(PAGE // 64) as further, make(PAGE // 4) as other:
            assert place(further) & -PAGE != places[0] & -PAGE
            assert place(other) & -PAGE not in (places[0] & -PAGE, place(further) & -PAGE)
        assert pool.free_size() == before
        assert len(heap_of(roomy)._spares) == 2, "one of a kind"
    assert roomy.free_size() == roomy.size


@pytest.mark.parametrize("sizes", [(64,), (64, 700, 1500)])
def test_empty_pages_keep_no_memory_from_other_processes(
    roomy: MemoryPool, sizes: tuple[int, ...]
) -> None:
    """Nor does one keep another: only a buffer in the same arena does."""
    heap = heap_of(roomy)
    with make(5 * PAGE, pool="main"):
        for size in sizes:
            make(size, pool="main").release()
        assert len(heap._spares) == len(sizes)
    assert not heap._spares
    for size in sizes:
        make(size, pool="main").release()
    assert not heap._spares
    assert list(CarveoutPool(roomy.zone, locks=roomy._path.parent)._locks.available()) == [
        (0, roomy.size // PAGE)
    ]


def test_empty_pages_are_given_back_when_the_pool_is_full(roomy: MemoryPool) -> None:
    with ExitStack() as stack:
        stack.enter_context(make(PAGE, pool="main"))
        make(64, pool="main").release()
        make(700, pool="main").release()
        for _ in range(roomy.size // PAGE - 1):
            stack.enter_context(make(PAGE, pool="main"))
        with pytest.raises(IONoMemoryError):
            make(64, pool="main")
    assert roomy.free_size() == roomy.size


def test_an_empty_page_that_is_looked_at_stays(roomy: MemoryPool) -> None:
    heap = heap_of(roomy)
    with make(5 * PAGE, pool="main"):
        small = make(64, pool="main")
        mapping = mapping_of(small)
        small.release()
        view = mapping.export(0, 64)
        heap.wake()
        assert list(heap._spares)
        assert bytes(view) == bytes(64)
        del view
        heap.wake()
        assert not heap._spares
        with make(64, pool="main") as again:
            assert mapping_of(again) is not mapping
    assert roomy.free_size() == roomy.size


def test_rest_is_over_when_it_is_said(main: MemoryPool) -> None:
    places = []
    for _ in range(2):
        with make(64) as small, make(2 * PAGE) as large:
            places.append((place(small), place(large)))
        pool_registry.wake()
    assert places[0] == places[1]
    assert main.free_size() == main.size


class FakePin:
    """A pin of ``length`` bytes that notes whether it was closed."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pins() -> Iterator[list[FakePin]]:
    made: list[FakePin] = []
    yield made
    resting_pins.wake()


def test_pins_rest_by_bytes_and_by_number(pins: list[FakePin]) -> None:
    def rest(*sizes: int) -> None:
        for size in sizes:
            pins.append(FakePin(size))
            resting_pins.rest(pins[-1])  # type: ignore[arg-type]

    rest(*[PAGE] * (resting_pins.PINS_MAX + 2))
    assert [each.closed for each in pins] == [True] * 2 + [False] * resting_pins.PINS_MAX
    rest(resting_pins.BYTES_MAX + PAGE)
    assert [each.closed for each in pins[-2:]] == [True, False]
    assert resting_pins.wake()
    assert all(each.closed for each in pins)
    assert not resting_pins.wake()
