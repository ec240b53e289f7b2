# SPDX-License-Identifier: Apache-2.0
"""Arenas under real open-file-description locks, between real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IONoMemoryError, IOReturn
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool, Claim
from dma_rehearsal.guest.iobuffer.memory.page_locks import PageLocks
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.memory.zones import Zone, find_zones

ROOT = Path(__file__).parents[5]
MIB = 1 << 20
ZONE = Zone("main", 0x0C00_0000, 64 * MIB)

CHILD = """
    import sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
    from dma_rehearsal.guest.iobuffer.memory.zones import Zone
    pool = CarveoutPool(Zone("main", 0x0C000000, 64 << 20), locks=Path({locks!r}))
    extent = pool.allocate({length}, 4096)
    print(extent.address, extent.length, flush=True)
    sys.stdin.read()
"""


class Child:
    """Another process that holds one extent until it is killed."""

    def __init__(self, locks: Path, length: int) -> None:
        text = textwrap.dedent(CHILD).format(root=str(ROOT), locks=str(locks), length=length)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        address, size = self.process.stdout.readline().split()
        self.extent = Extent(int(address), int(size))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def overlap(one: Extent, other: Extent) -> bool:
    return one.address < other.end and other.address < one.end


def test_arena_sizes() -> None:
    assert ZONE.arena_size == MIB
    assert Zone("low", 0xD00000, 2 * MIB).arena_size == 32 << 10
    assert Zone("tiny", 0, 5 * 4096).arena_size == 4096


@pytest.mark.parametrize("size", [64 * MIB, 65 * MIB + 4096, 3 * 4096])
def test_whole_zone_fits_and_comes_back(tmp_path: Path, size: int) -> None:
    pool = CarveoutPool(Zone("z", 0x1000_0000, size), locks=tmp_path)
    assert pool.free_size() == size
    extent = pool.allocate(size, 4096)
    assert extent == Extent(0x1000_0000, size)
    assert pool.free_size() == 0
    pool.free(extent)
    assert pool.free_size() == size


def test_alignment_and_growth(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    extents: list[Extent] = []
    for step in range(60):
        alignment = 4096 << step % 9
        length = 4096 * (1 + step * 37 % 300)
        extent = pool.allocate(length, alignment)
        assert extent.address % alignment == 0
        assert ZONE.start <= extent.address
        assert extent.end <= ZONE.start + ZONE.size
        assert not any(overlap(extent, other) for other in extents)
        extents.append(extent)
    assert pool.free_size() == ZONE.size - sum(e.length for e in extents)
    for extent in extents[::2] + extents[1::2]:
        pool.free(extent)
    assert pool.free_size() == ZONE.size
    assert pool.allocate(ZONE.size, 4096).length == ZONE.size, "all arenas were given back"


@given(
    size=st.sampled_from([64 * MIB, 65 * MIB + 4096, 5 * 4096]),
    takes=st.lists(st.tuples(st.sampled_from(["ours", "theirs", "claim"]), st.integers(1, 700))),
)
def test_free_is_what_is_left_of_ours_and_each_arena_that_nobody_has(
    size: int, takes: list[tuple[str, int]]
) -> None:
    zone = Zone("z", 0x1000_0000, size)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (CarveoutPool(zone, locks=Path(folder)) for _ in range(2))
        claims: list[Claim] = []
        for who, pages in takes:
            with contextlib.suppress(IONoMemoryError):
                if who == "claim":
                    claims.append(theirs.claim(pages * 4096, 4096))
                else:
                    (ours if who == "ours" else theirs).allocate(pages * 4096, 4096)
        taken = [claim.extent for claim in claims]
        taken += [Extent(*theirs._bounds(index)) for index in theirs._held]
        arenas = [Extent(*ours._bounds(each)) for each in ours._arenas(zone.start, size)]
        free = sum(length for _, length in ours._ranges.runs())
        for index, arena in enumerate(arenas):
            if index not in ours._held and not any(overlap(arena, each) for each in taken):
                free += arena.length
        assert ours.free_size() == free
        for claim in claims:
            claim.close()
        ours.close()
        theirs.close()


def test_too_much_says_how_much(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    pool.allocate(40 * MIB, 4096)
    with pytest.raises(IONoMemoryError) as caught:
        pool.allocate(30 * MIB, 4096)
    assert (caught.value.asked, caught.value.largest) == (30 * MIB, 24 * MIB)
    assert str(30 * MIB) in str(caught.value)
    assert str(24 * MIB) in str(caught.value)


def test_two_processes_never_share_and_a_dead_ones_memory_comes_back(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    ours = [pool.allocate(4096, 4096)]
    child = Child(tmp_path, 40 * MIB)
    try:
        assert not overlap(ours[0], child.extent)
        assert pool.free_size() == 24 * MIB - 4096
        with pytest.raises(IONoMemoryError):
            pool.allocate(32 * MIB, 4096)
        ours.append(pool.allocate(20 * MIB, 4096))
        assert not any(overlap(extent, child.extent) for extent in ours)
    finally:
        child.kill()
    assert pool.free_size() == 44 * MIB - 4096
    ours.append(pool.allocate(36 * MIB, 4096))
    assert not overlap(ours[1], ours[2])


def test_grows_into_the_arena_next_to_its_own(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    first = pool.allocate(MIB // 2, 4096)
    second = pool.allocate(MIB, 4096)
    assert second.address == first.end, "half of it was locked already"


def test_a_lock_lost_in_between_is_looked_for_elsewhere(tmp_path: Path) -> None:
    pool = CarveoutPool(ZONE, locks=tmp_path)
    rival = PageLocks(tmp_path / "main.lock", 64)
    grow = pool._grow
    stolen: list[int] = []

    def grow_late(place: int, length: int, *, heed: bool) -> bool:
        if not stolen:
            stolen.append((place - ZONE.start) // MIB)
            assert rival.acquire(stolen[0], 1)
        return grow(place, length, heed=heed)

    pool._grow = grow_late  # type: ignore[method-assign]
    extent = pool.allocate(2 * MIB, 4096)
    assert stolen[0] not in pool._arenas(extent.address, extent.length)
    assert pool.free_size() == 61 * MIB


@pytest.mark.parametrize("held", [[], [0], [63], [0, 1, 5, 63], [10, 11, 12], list(range(64))])
def test_available(tmp_path: Path, held: list[int]) -> None:
    ours, other = (PageLocks(tmp_path / "lock", 64) for _ in range(2))
    # From high to low, so that the kernel's list is not in the order of the arenas.
    for index in reversed(held):
        assert other.acquire(index, 1)
        assert not ours.acquire(index, 1)
    free = [i for first, count in ours.available() for i in range(first, first + count)]
    assert free == [i for i in range(64) if i not in held]
    other.close()
    assert list(ours.available()) == [(0, 64)]


def test_unusable_lock_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IODeviceError) as caught:
        PageLocks(tmp_path / "file" / "main.lock", 4)
    assert caught.value.code == IOReturn.kIOReturnCannotLock


def test_locks_are_not_inherited_by_programs(tmp_path: Path) -> None:
    locks = PageLocks(tmp_path / "lock", 4)
    assert not os.get_inheritable(locks._fd)


def test_zones_in_sysfs(tmp_path: Path) -> None:
    for number, (name, address) in enumerate(
        [("dma-rehearsal-high", 0x110000000), ("other", 1), ("dma-rehearsal-low", 0xD00000)]
    ):
        folder = tmp_path / f"uio{number}" / "maps" / "map0"
        folder.mkdir(parents=True)
        (tmp_path / f"uio{number}" / "name").write_text(name + "\n")
        (folder / "addr").write_text(f"{address:#018x}\n")
        (folder / "size").write_text("0x0000000000200000\n")
    assert find_zones(tmp_path) == [
        Zone("low", 0xD00000, 0x200000),
        Zone("high", 0x110000000, 0x200000),
    ]
    assert find_zones(tmp_path / "none") == []
