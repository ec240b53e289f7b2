# SPDX-License-Identifier: Apache-2.0
"""The pool that a request gets its memory from, and the error when none can give it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IODeviceError,
    IONoMemoryError,
    IOReturn,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.placement import Hostile
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Request
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.unit.guest.memory_pool import MemoryPool

SIZE = 1 << 20
ZONES = [
    Zone("low", 0x0040_0000, SIZE),
    Zone("main", 0x0C00_0000, SIZE),
    Zone("high", 0x1_0000_0000, SIZE),
]
LAST = {zone.name: zone.start + zone.size - 1 for zone in ZONES}
PLAIN = Request(PAGE)


@pytest.fixture
def carve_outs(tmp_path: Path) -> Iterator[dict[str, MemoryPool]]:
    """The three of a guest, in the order in which they are tried."""
    made = {zone.name: MemoryPool(zone, tmp_path) for zone in ZONES}
    order = [made[name] for name in ("main", "low", "high")]
    dma_platform.use_pools(*map(HeapPool, order))
    yield made
    dma_platform.use_pools()
    for pool in made.values():
        pool.close()
        os.close(pool.fd)


def taken(request: Request, name: str | None = None) -> str:
    backing = pool_registry.take(request, name)
    backing.close()
    return backing.pool


def test_discovery_begins_with_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    driver: Any = object()
    dma_platform.driver = driver
    monkeypatch.setattr(pool_registry, "find_zones", lambda: list(ZONES))
    try:
        names = ["main", "low", "high", "hugetlb", "pinned", "pageable"]
        assert list(pool_registry.known()) == names
        assert pool_registry.named("high") is pool_registry.known()["high"]
        with pytest.raises(IOBadArgumentError, match=f"'none'; there are {', '.join(names)}"):
            pool_registry.named("none")
    finally:
        dma_platform.use_pools()
        dma_platform.driver = None


def test_without_a_carve_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_registry, "find_zones", list)
    with pytest.raises(IODeviceError, match="carveouts=") as caught:
        pool_registry.known()
    assert caught.value.code is IOReturn.kIOReturnNotAttached


@pytest.mark.usefixtures("carve_outs")
def test_memory_for_narrow_devices_is_kept_for_them() -> None:
    assert taken(PLAIN) == "main"
    assert taken(PLAIN, "low") == "low"
    assert taken(replace(PLAIN, highest=LAST["low"])) == "low"
    assert taken(replace(PLAIN, highest=LAST["main"])) == "main"
    assert taken(replace(PLAIN, highest=LAST["main"] - 1)) == "low"
    with pytest.raises(IONoMemoryError, match=rf"ends at {LAST['low']:#x}, above"):
        pool_registry.take(replace(PLAIN, highest=LAST["low"] - 1), None)
    most = Request(SIZE)
    with pools_full("main"):
        assert taken(PLAIN) == "high"
        with pools_full("high"):
            with pytest.raises(IONoMemoryError, match="kept for devices with few") as caught:
                pool_registry.take(PLAIN, None)
            assert (caught.value.asked, caught.value.largest) == (PAGE, 0)
    assert taken(most) == "main"


class pools_full:  # noqa: N801  # as a function in a with
    """Has all memory of a pool taken."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._backing = pool_registry.take(Request(SIZE), self._name)

    def __exit__(self, *_: object) -> None:
        self._backing.close()
        pool_registry.wake()


@pytest.mark.usefixtures("carve_outs")
def test_a_hostile_policy_begins_at_the_top() -> None:
    before, dma_platform.placement = dma_platform.placement, Hostile(1)
    try:
        assert taken(PLAIN) == "high"
        assert taken(replace(PLAIN, highest=LAST["low"])) == "low"
    finally:
        dma_platform.placement = before


@pytest.mark.usefixtures("carve_outs")
def test_an_alignment_that_no_pool_has_room_for() -> None:
    with pytest.raises(IOBadArgumentError, match=rf"{1 << 40} is above every pool's size \(main"):
        pool_registry.take(Request(PAGE, 1 << 40), None)
    with pools_full("main"), pools_full("high"), pytest.raises(IONoMemoryError):
        pool_registry.take(Request(PAGE, SIZE), None)  # no larger than a pool: it could be had
    backing = pool_registry.take(Request(PAGE, SIZE), None)
    ((address, _),) = backing.segments(0, 1)
    assert address % SIZE == 0
    backing.close()


@pytest.mark.usefixtures("carve_outs")
def test_the_longest_run_of_those_that_were_asked_is_told() -> None:
    held = [
        pool_registry.take(Request(PAGE), "main"),
        pool_registry.take(Request(64 * PAGE), "high"),
    ]
    with pytest.raises(IONoMemoryError) as caught:
        pool_registry.take(Request(SIZE), None)
    assert caught.value.asked == SIZE
    assert caught.value.largest == SIZE - PAGE
    for each in held:
        each.close()


def test_what_rests_wakes(carve_outs: dict[str, MemoryPool]) -> None:
    for name in carve_outs:
        pool_registry.take(Request(SIZE), name).close()
    pool_registry.wake()
    assert [pool.free_size() for pool in pool_registry.known().values()] == [SIZE] * 3


@pytest.mark.parametrize(("shared", "mapped"), [(True, True), (True, False), (False, False)])
def test_memory_that_others_have_too_is_a_claim(
    carve_outs: dict[str, MemoryPool], shared: bool, mapped: bool
) -> None:
    """Whole pages at the alignment asked for, and one page at least."""
    for capacity, alignment in ((1, 1), (PAGE + 1, 64), (PAGE, 4 * PAGE)):
        request = Request(capacity, alignment, shared=shared, mapped=mapped)
        backing = pool_registry.take(request, "main")
        share = backing.share()
        assert share.kind == "carve-out"
        assert share.size == -(-capacity // PAGE) * PAGE
        assert share.address % max(alignment, PAGE) == 0
        assert (backing.address == 0) is not mapped
        assert carve_outs["main"].bytes_at(share.address, share.size) == bytes(share.size)
        backing.close()


def test_a_pool_of_another_kind_gives_nothing_to_others() -> None:
    class Extents:
        name, size = "u-dma-buf", SIZE

    extents: Any = Extents()
    pool = HeapPool(extents)
    assert pool.refuses(PLAIN) == ""
    assert "this process's alone" in pool.refuses(replace(PLAIN, shared=True))
    assert "this process's alone" in pool.refuses(replace(PLAIN, mapped=False))
    assert "always wired" in pool.refuses(replace(PLAIN, pageable=True))
