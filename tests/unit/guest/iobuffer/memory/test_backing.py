# SPDX-License-Identifier: Apache-2.0
"""The memory behind buffers, with a driver that pins page by page: places, parts, and ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IOCannotWireError,
    IONoMemoryError,
    IONotReadyError,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import resting_pins
from dma_rehearsal.guest.iobuffer.memory.carveout import Claim
from dma_rehearsal.guest.iobuffer.memory.claim_backing import ClaimBacking
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import FIXED_SIZE, PageablePool, PinnedPool
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Request
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping
from tests.unit.guest.memory_pool import MemoryPool

SIZE = 4 * PAGE
# Where the pages of a pin lie: two runs, and one of them not the last one's neighbour.
PLACES = [(0x50_000, 2 * PAGE), (0x90_000, PAGE), (0x80_000, PAGE)]
LAST = 0x90_000 + PAGE - 1  # the highest byte
WB, UC = CacheMode.COPYBACK, CacheMode.INHIBIT


class FakeWindow:
    closed = False

    def close(self) -> None:
        self.closed = True


class FakePin:
    def __init__(self, length: int) -> None:
        self.length = length
        self.closed = False
        self.windows: list[FakeWindow] = []

    def segments(self) -> list[tuple[int, int]]:
        return PLACES

    def kernel_map(self) -> FakeWindow:
        self.windows.append(FakeWindow())
        return self.windows[-1]

    def fileno(self) -> int:
        return 77

    def close(self) -> None:
        self.closed = True


class FakeDriver:
    """``refuses``: how many pins are refused before one is given."""

    def __init__(self) -> None:
        self.pins: list[FakePin] = []
        self.asked: list[tuple[int, int]] = []
        self.refuses = 0

    def pin(self, address: int, length: int) -> FakePin:
        self.asked.append((address, length))
        if self.refuses:
            self.refuses -= 1
            raise IOCannotWireError("no", address=address, length=length)
        self.pins.append(FakePin(length))
        return self.pins[-1]


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    made: Any = FakeDriver()
    dma_platform.driver = made
    resting_pins.wake()
    yield made
    resting_pins.wake()
    dma_platform.driver = None


def pinnable(*, mapped: bool = True, highest: int | None = None) -> PinnableBacking:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, SIZE)
    return PinnableBacking("pinned", fd, SIZE, mapped=mapped, highest=highest)


@pytest.mark.parametrize("mapped", [True, False])
def test_wired_once_and_where_the_pages_are(driver: FakeDriver, mapped: bool) -> None:
    backing = pinnable(mapped=mapped)
    assert not backing.pinned
    with pytest.raises(IONotReadyError, match="prepare"):
        list(backing.segments(0, 1))
    backing.wire()
    backing.wire()
    ((address, length),) = driver.asked
    assert length == SIZE
    assert (address == backing.address) is mapped
    assert backing.pinned
    for offset, size, due in (
        (0, SIZE, PLACES),
        (100, PAGE, [(0x50_064, PAGE)]),
        (PAGE + 1, PAGE, [(0x51_001, PAGE - 1), (0x90_000, 1)]),
        (2 * PAGE, PAGE, [(0x90_000, PAGE)]),
        (3 * PAGE - 1, 2, [(0x90_FFF, 1), (0x80_000, 1)]),
        (SIZE - 1, 1, [(0x80_FFF, 1)]),
    ):
        assert list(backing.segments(offset, size)) == due
    backing.unwire()
    assert driver.pins[0].closed
    assert not backing.pinned
    backing.close()


@pytest.mark.parametrize(("highest", "fits"), [(LAST, True), (LAST - 1, False), (0x90_000, False)])
def test_the_last_byte_is_held_against_the_highest_address(
    driver: FakeDriver, highest: int, fits: bool
) -> None:
    backing = pinnable(highest=highest)
    if fits:
        backing.wire()
    else:
        with pytest.raises(IONoMemoryError, match=f"at 0x90000, above {highest:#x}"):
            backing.wire()
        assert driver.pins[0].closed
    assert backing.pinned is fits
    backing.close()


def test_a_released_pin_rests_and_is_woken_for_another(driver: FakeDriver) -> None:
    pinnable().close()  # nothing was pinned
    assert not resting_pins.wake()
    first = pinnable()
    first.wire()
    first.close()
    assert not driver.pins[0].closed
    second = pinnable()
    driver.refuses = 1
    second.wire()
    assert driver.pins[0].closed
    assert second.pinned
    second.close()
    resting_pins.wake()
    driver.refuses = 1
    third = pinnable()
    with pytest.raises(IOCannotWireError):
        third.wire()
    third.close()


@pytest.mark.parametrize("mapped", [True, False])
def test_bytes_mapped_or_not(driver: FakeDriver, mapped: bool) -> None:
    del driver
    backing = pinnable(mapped=mapped)
    backing.write(PAGE - 2, b"abcd")
    assert backing.read(PAGE - 3, 6) == b"\0abcd\0"
    again, skip = backing.map(PAGE - 1, 2, WB)
    assert (again.length, skip) == (2 * PAGE, PAGE - 1)
    assert again.read(skip, 2) == b"bc"
    again.close()
    again, skip = backing.map(PAGE, PAGE, WB)
    assert (again.length, skip, again.read(0, 2)) == (PAGE, 0, b"cd")
    again.close()
    with pytest.raises(IOBusyError, match="INHIBIT"):
        backing.map(0, PAGE, UC)
    with backing.reached() as va:
        assert (va == backing.address) is mapped
        assert Mapping.adopt(va, SIZE).read(PAGE, 2) == b"cd" if mapped else va
    backing.close()


def test_private_memory_is_nobody_elses(driver: FakeDriver) -> None:
    del driver
    backing = PinnableBacking("pageable", -1, SIZE, mapped=True, purgeable=True)
    assert backing.purgeable is not None
    with pytest.raises(IOUnsupportedError, match="one mapping"):
        backing.map(0, PAGE, WB)
    with pytest.raises(IOUnsupportedError, match="this process's alone"):
        backing.share()
    backing.close()


def test_what_another_process_is_given(driver: FakeDriver) -> None:
    del driver
    backing = pinnable()
    share = backing.share()
    assert (share.kind, share.pool, share.address, share.size) == ("file", "pinned", 0, SIZE)
    assert len(share.fds) == 1
    backing.wire()
    assert backing.share().fds == (*share.fds, 77)
    fd = share.fds[0]
    backing.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_the_kernels_mapping_ends_with_the_place(driver: FakeDriver) -> None:
    backing = pinnable()
    with pytest.raises(IONotReadyError, match="prepare"):
        backing.make_kernel_map()
    backing.wire()
    own = backing.make_kernel_map()
    assert backing.make_kernel_map() is own
    lent, end = backing.lend_kernel_map()
    assert lent is not own
    (pin,) = driver.pins
    backing.unwire()
    assert [each.closed for each in pin.windows] == [True, False]
    assert backing.kernel_map is None
    end()
    assert all(each.closed for each in pin.windows)
    backing.close()


def test_a_pins_owner_may_be_another_process(driver: FakeDriver) -> None:
    backing = pinnable()
    pin: Any = FakePin(SIZE)
    backing.adopt(pin)
    backing.wire()
    assert not driver.asked
    assert list(backing.segments(0, SIZE)) == PLACES
    backing.forsake()
    assert pin.closed
    backing.forsake()


@pytest.mark.parametrize("pool", [PageablePool(), PinnedPool()], ids=lambda pool: pool.name)
@pytest.mark.parametrize("capacity", [1, PAGE, PAGE + 1])
def test_pools_make_whole_pages_of_a_fixed_size(
    driver: FakeDriver, pool: PageablePool | PinnedPool, capacity: int
) -> None:
    backing = pool.take(Request(capacity, pageable=pool.name == "pageable"))
    pages = -(-capacity // PAGE)
    assert backing.size == pages * PAGE
    assert len(driver.asked) == (pool.name == "pinned")
    fd = backing.share().fds[0]
    assert os.fstat(fd).st_size == pages * PAGE
    assert not os.get_inheritable(fd)
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals == FIXED_SIZE | fcntl.F_SEAL_SEAL
    backing.close()


def test_a_pinned_pool_wakes_what_rests(driver: FakeDriver) -> None:
    pool = PinnedPool()
    pool.take(Request(PAGE)).close()
    driver.refuses = 2  # by the backing, and the pool
    with pytest.raises(IOCannotWireError):
        pool.take(Request(PAGE))
    pool.take(Request(PAGE)).close()
    driver.refuses = 1
    pool.take(Request(PAGE)).close()
    assert [each.closed for each in driver.pins] == [True, True, False]


@pytest.fixture
def carve_out(tmp_path: Path) -> Iterator[MemoryPool]:
    made = MemoryPool(Zone("main", 0x0C00_0000, 1 << 20), tmp_path)
    yield made
    made.close()
    os.close(made.fd)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_claims_pages_are_zeroed_to_the_last_byte(
    carve_out: MemoryPool, mapped: bool, clean: bool
) -> None:
    """All old content is cleared; memory that is handed on keeps all of it."""
    dirty = b"\xa5" * carve_out.zone.size
    os.pwrite(carve_out.fd, dirty, 0)
    claim = carve_out.claim(2 * PAGE, PAGE)
    start = claim.extent.address
    backing = ClaimBacking(carve_out, claim, UC, mapped=mapped, clean=clean)
    assert backing.size == 2 * PAGE
    due = bytes(2 * PAGE) if clean else dirty[: 2 * PAGE]
    assert carve_out.bytes_at(start, 2 * PAGE) == due
    before = start - carve_out.zone.start
    everything = os.pread(carve_out.fd, carve_out.zone.size, 0)
    assert everything[:before] + everything[before + 2 * PAGE :] == dirty[2 * PAGE :]
    assert list(backing.segments(100, 200)) == [(start + 100, 200)]
    backing.write(2 * PAGE - 1, b"x")
    assert backing.read(2 * PAGE - 2, 2) == due[-2:-1] + b"x"
    share = backing.share()
    assert (share.kind, share.pool, share.address, share.size, share.mode, share.fds) == (
        *("carve-out", "main", start, 2 * PAGE, UC, (claim.fd,)),
    )
    assert backing.lend_kernel_map()[0] is backing.make_kernel_map()
    fd = claim.fd
    backing.close()
    backing.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_part_of_a_claim_is_mapped_by_whole_pages(carve_out: MemoryPool) -> None:
    claim: Claim = carve_out.claim(3 * PAGE, PAGE)
    backing = ClaimBacking(carve_out, claim, WB, mapped=True, clean=True)
    backing.write(PAGE + 5, b"abc")
    mapping, skip = backing.map(PAGE + 5, PAGE, WB)
    assert (mapping.length, skip, mapping.read(skip, 3)) == (2 * PAGE, 5, b"abc")
    mapping.close()
    backing.close()
