# SPDX-License-Identifier: Apache-2.0
"""Placement: with any policy a request gets what it asked for; the hostile one is hostile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dma_rehearsal.guest.drivers.vfio import IovaAllocator
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionInOut,
    kIOMapInhibitCache,
)
from dma_rehearsal.guest.iobuffer.base.errors import IONoMemoryError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import placement, pool_registry
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.placement import HOSTILE, KIND, Hostile, Policy
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Request
from tests.generated import examples
from tests.unit.guest.memory_pool import MemoryPool, make

CARRY = 1 << 32
LINE = 64
MIB = 1 << 20
SHARED = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    policy = Hostile(7)
    before, dma_platform.placement = dma_platform.placement, policy
    yield policy
    dma_platform.placement = before


def span(buffer: IOBufferMemoryDescriptor) -> tuple[int, int]:
    return buffer.getPhysicalAddress(), len(buffer.footprint())


def test_a_policy_has_a_name() -> None:
    assert placement.named(KIND, 1).name == KIND
    assert placement.named(HOSTILE, 1).name == HOSTILE
    with pytest.raises(KeyError):
        placement.named("other", 1)
    assert dma_platform.placement.name == KIND


@given(seed=st.integers(0, 1 << 32))
@settings(deadline=None)
def test_no_small_buffer_begins_with_a_page_or_at_an_even_byte(seed: int) -> None:
    first = Hostile(seed).first()
    assert first % 2 == 1
    assert 0 < first < PAGE


@pytest.mark.parametrize(
    ("pages", "order"),
    [(0, []), (1, []), (2, [1, 0]), (5, [1, 3, 0, 2, 4])],
)
def test_pages_are_touched_with_no_two_neighbours_in_a_row(pages: int, order: list[int]) -> None:
    assert list(Hostile(7).touched(pages)) == order
    assert list(Policy().touched(pages)) == []


@pytest.mark.parametrize("pages", [2, 5])
@pytest.mark.usefixtures("hostile")
def test_each_page_of_the_kernels_memory_is_touched(
    monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Its first byte, so that the kernel finds a frame for it there and then."""
    written: list[int] = []
    pwrite = os.pwrite

    def noted(fd: int, data: bytes, offset: int) -> int:
        written.append(offset)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    backing = PageablePool().take(Request(pages * PAGE, pageable=True))
    assert written == [page * PAGE for page in Hostile(7).touched(pages)]
    assert backing.read(0, pages * PAGE) == bytes(pages * PAGE)
    backing.close()


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 9000), st.integers(0, 14), st.booleans()), min_size=1, max_size=30
    ),
    seed=st.integers(0, 1 << 32),
)
@SHARED
def test_what_was_asked_for_holds(
    main: MemoryPool, requests: list[tuple[int, int, bool]], seed: int
) -> None:
    before, dma_platform.placement = dma_platform.placement, Hostile(seed)
    try:
        with ExitStack() as stack:
            made = []
            for capacity, bits, uncached in requests:
                options = kIODirectionInOut | (kIOMapInhibitCache if uncached else 0)
                each = stack.enter_context(make(capacity, 1 << bits, options))
                address, size = span(each)
                assert size >= capacity
                assert address % (PAGE if uncached else 1) == address % (1 << bits) == 0
                assert bytes(each.footprint()) == bytes(size)
                if capacity < PAGE:
                    assert address // PAGE == (address + capacity - 1) // PAGE
                made.append(each)
            spans = sorted(map(span, made))
            assert all(at + size <= following for (at, size), (following, _) in pairwise(spans))
            for each in made:
                address, size = span(each)
                capacity = each.getCapacity()
                # A small one stays within its page.
                if each.alignment < PAGE and not PAGE - each.alignment < capacity < PAGE:
                    assert address % PAGE, "off the page"
                if capacity < PAGE and (address + capacity) % PAGE:
                    assert address + capacity not in [at for at, _ in spans], "a byte apart"
                if each.alignment >= LINE:
                    others = [other for other in spans if other[0] != address]
                    lines = range(address // LINE, (address + each.getCapacity() - 1) // LINE + 1)
                    assert not any(
                        at // LINE <= lines[-1] and lines[0] <= (at + n - 1) // LINE
                        for at, n in others
                    )
    finally:
        dma_platform.placement = before
    assert main.free_size() == main.size


@pytest.mark.usefixtures("main")
def test_the_highest_pool_that_the_mask_allows(hostile: Hostile) -> None:
    assert hostile.highest
    masked = IOBufferMemoryDescriptor.inTaskWithPhysicalMask
    with (
        make(PAGE) as anywhere,
        masked(current_task(), kIODirectionInOut, PAGE, 0xFFFF_FFFF) as low,
        masked(current_task(), kIODirectionInOut, PAGE, 0xFF_FFFF) as lowest,
        make(PAGE, pool="main") as named,
    ):
        assert [each.pool for each in (anywhere, low, lowest, named)] == [
            *("high", "main", "low", "main")
        ]
        for each in anywhere, low, lowest:
            pool = pool_registry.named(each.pool)
            zone = pool.extents.zone  # type: ignore[attr-defined]
            assert zone.start + zone.size - each.getPhysicalAddress() <= 2 * PAGE
    dma_platform.placement = Policy()
    with make(PAGE) as kind:
        assert (kind.pool, kind.getPhysicalAddress()) == ("main", 0x0C00_0000)


@pytest.mark.usefixtures("main", "hostile")
def test_small_buffers_share_a_line_unless_they_asked_for_their_own() -> None:
    with ExitStack() as stack:
        tables = [stack.enter_context(make(20)) for _ in range(6)]
        starts = [each.getPhysicalAddress() for each in tables]
        assert len({start // LINE for start in starts}) < 4
        lines = {at // LINE for start in starts for at in (start, start + 19)}
        aligned = stack.enter_context(make(20, LINE))
        assert aligned.getPhysicalAddress() // LINE not in lines


@pytest.mark.usefixtures("main", "hostile")
def test_memory_comes_back_and_the_pool_can_be_filled() -> None:
    high = pool_registry.named("high")
    with ExitStack() as stack:
        made = 0
        with suppress(IONoMemoryError):
            while made < high.size:
                stack.enter_context(make(500 + made % 3000, pool="high"))
                made += 500
        assert high.size > made > high.size // 5
    assert high.free_size() == high.size
    with make(high.size, PAGE, pool="high") as whole:
        assert whole.getPhysicalAddress() % PAGE == 0


def test_a_request_is_placed_the_same_whatever_came_before() -> None:
    one, other = Hostile(1), Hostile(1)
    other.skip(3, 1)
    assert one.skip(5000, 4) == other.skip(5000, 4)
    assert len({Hostile(seed).skip(5000, 4) for seed in range(20)}) > 5


@given(capacity=st.integers(1, 20000), bits=st.integers(0, 11), seed=st.integers(0, 1 << 32))
def test_where_a_buffer_begins_in_its_page(capacity: int, bits: int, seed: int) -> None:
    skip = Hostile(seed).skip(capacity, 1 << bits)
    assert 0 <= skip < PAGE
    assert skip % (1 << bits) == 0
    if capacity < PAGE:
        assert skip + capacity <= PAGE
    if capacity >= PAGE or capacity <= PAGE - (1 << bits):
        assert skip % (2 << bits), "not aligned to more than was asked for"


@given(pages=st.integers(0, 5000))
def test_no_two_neighbours_are_found_in_a_row(pages: int) -> None:
    order = Hostile(1).touched(pages)
    assert sorted(order) == (list(range(pages)) if 1 < pages <= 4096 else [])
    assert not any(right == left + 1 for left, right in pairwise(order))
    assert not Policy().touched(pages)


# Bus addresses.


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 40), st.integers(12, 22), st.sampled_from([24, 32, 33, 39, 64])),
        max_size=30,
    ),
    seed=st.integers(0, 1 << 32),
)
def test_bus_addresses_are_as_asked(requests: list[tuple[int, int, int]], seed: int) -> None:
    before, dma_platform.placement = dma_platform.placement, Hostile(seed)
    try:
        hole = (0xFEE0_0000, 0xFEEF_FFFF)
        free = IovaAllocator([(0, hole[0] - 1), (hole[1] + 1, (1 << 39) - 1)], PAGE)
        taken: list[tuple[int, int]] = [(hole[0], hole[1] + 1 - hole[0])]
        for pages, alignment, bits in requests:
            size = pages * PAGE
            try:
                at = free.allocate(size, 1 << alignment, bits=bits)
            except IONoMemoryError:
                assert bits == 24
                continue
            assert at % (1 << alignment) == 0
            assert at + size <= 1 << bits
            taken.append((at, size))
            if bits > 32 and pages > 1 << alignment - 12:
                assert at // CARRY != (at + size - 1) // CARRY or bits == 33
        taken.sort()
        assert all(at + size <= following for (at, size), (following, _) in pairwise(taken))
    finally:
        dma_platform.placement = before


@pytest.mark.usefixtures("hostile")
def test_bus_addresses_across_4_gib_else_the_highest_and_apart() -> None:
    free = IovaAllocator([(0, (1 << 39) - 1)], PAGE)
    for number in range(1, 4):
        at = free.allocate(8 * PAGE)
        assert at < number * CARRY < at + 8 * PAGE
    pages = [free.allocate(PAGE) for _ in range(3)]
    assert pages == [(1 << 39) - 2 * PAGE, (1 << 39) - 4 * PAGE, (1 << 39) - 6 * PAGE]
    narrow = [free.allocate(8 * PAGE, bits=32) for _ in range(2)]
    assert narrow[0] + 8 * PAGE < CARRY
    assert narrow[1] + 8 * PAGE < narrow[0]
