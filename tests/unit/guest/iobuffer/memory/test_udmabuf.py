# SPDX-License-Identifier: Apache-2.0
"""u-dma-buf as a board's pool and cache maintenance, on files for sysfs and for the device."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOAlignmentWarning,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IONoMemoryError,
    IOReturn,
    IOSubMemoryDescriptor,
    IOUnsupportedError,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMemoryIncoherentIOFlush,
)
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent, Request
from dma_rehearsal.guest.iobuffer.memory.udmabuf import UDmaBufCoherence, UDmaBufPool
from dma_rehearsal.guest.iobuffer.os import udmabuf_sysfs
from dma_rehearsal.guest.iobuffer.os.udmabuf_sysfs import Attributes

OUT, IN, BOTH = (
    IODirection.kIODirectionOut,
    IODirection.kIODirectionIn,
    IODirection.kIODirectionInOut,
)
INHIBIT, WRITE_COMBINE, COPYBACK = (
    CacheMode.INHIBIT,
    CacheMode.WRITE_COMBINE,
    CacheMode.COPYBACK,
)


@pytest.fixture
def board(tmp_path: Path) -> tuple[Path, Path]:
    """The files of /sys/class/u-dma-buf/udmabuf0 and of /dev."""
    sysfs, devices = tmp_path / "sys", tmp_path / "dev"
    folder = sysfs / "udmabuf0"
    folder.mkdir(parents=True)
    devices.mkdir()
    (folder / "phys_addr").write_text("0x1f400000\n")
    (folder / "size").write_text(f"{64 * PAGE + 100}\n")
    (devices / "udmabuf0").write_bytes(bytes(64 * PAGE + 100))
    return sysfs, devices


def test_u_dma_buf_as_a_pool(board: tuple[Path, Path]) -> None:
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    assert (pool.size, pool.start) == (64 * PAGE, 0x1F40_0000)
    dma_platform.use_pools(HeapPool(pool))
    try:
        with IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionInOut, 10000, 8192
        ) as buffer:
            address, length = buffer.getPhysicalSegment()
            assert address % 8192 == 0
            assert length == 10000
            with buffer.view() as view:
                view[:5] = b"board"
            offset = address - pool.start
            assert (devices / "udmabuf0").read_bytes()[offset : offset + 5] == b"board"
        assert pool.free_size() == pool.size
        with pytest.raises(IONoMemoryError, match="largest free run is 262144"):
            pool.allocate(65 * PAGE, PAGE)
    finally:
        dma_platform.use_pools()
        pool.close()


def test_u_dma_buf_maintains_the_caches(board: tuple[Path, Path]) -> None:
    """As the front end asks it to, with the place in the device's own buffer."""
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    folder = sysfs / "udmabuf0"
    dma_platform.use_pools(HeapPool(pool))
    caches = UDmaBufCoherence(pool)
    before, dma_platform.coherence = dma_platform.coherence, caches

    def written(*names: str) -> list[str]:
        return [(folder / f"sync_{name}").read_text() for name in names]

    try:
        with IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, 300) as buffer:
            at = buffer.getPhysicalAddress() - pool.start
            buffer.sync_for_device(64, 128, kIODirectionOut)
            assert written("offset", "size", "direction") == [hex(at + 64), "0x80", "0x1"]
            assert written("for_device") == ["0x1"]
            assert not (folder / "sync_for_cpu").exists()
            part = IOSubMemoryDescriptor.withSubRange(buffer, 100, 64, kIODirectionIn)
            part.sync_for_cpu(0, 64)
            assert written("for_cpu", "direction", "offset") == ["0x1", "0x2", hex(at + 100)]
            part.release()
            buffer.performOperation(kIOMemoryIncoherentIOFlush, 0, 300)
            assert written("offset", "size", "direction") == [hex(at), hex(300), "0x0"]
            with pytest.raises(IODeviceError, match="not in a u-dma-buf"):
                UDmaBufCoherence().clean(buffer, 0, 64)
    finally:
        dma_platform.coherence = before
        dma_platform.use_pools()
        pool.close()


@pytest.mark.parametrize("line", [64, 128])
def test_alignment_where_devices_do_not_snoop(board: tuple[Path, Path], line: int) -> None:
    """Left out, it is a line; less is warned of, unless the memory has whole pages anyway."""
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    dma_platform.use_pools(HeapPool(pool))
    before, dma_platform.coherence = dma_platform.coherence, UDmaBufCoherence(pool, line=line)
    make = IOBufferMemoryDescriptor.withOptions
    try:
        with make(kIODirectionIn, 5) as first, make(kIODirectionIn, 5) as second:
            places = {each.getPhysicalAddress() // line for each in (first, second)}
            assert len(places) == 2
            assert {each.alignment for each in (first, second)} == {line}
        with (
            pytest.warns(IOAlignmentWarning, match=f"a cache line of {line} bytes") as seen,
            make(kIODirectionIn, 5, 1) as small,
        ):
            assert small.alignment == 1
        assert seen[0].filename == __file__
        with make(kIODirectionIn | kIOMapCopybackCache, 5, 1) as pages:
            assert pages.alignment == PAGE
    finally:
        dma_platform.coherence = before
        dma_platform.use_pools()
        pool.close()


# Syncs.


def test_a_sync_is_one_write_where_the_driver_has_that(board: tuple[Path, Path]) -> None:
    """Offset 63:32, size 31:4, direction 3:2, and 1; nothing that another one can mix with."""
    folder = board[0] / "udmabuf0"
    (folder / "driver_version").write_text("5.5.0\n")
    files = Attributes(folder)
    files.sync(0x1234, 0x560, OUT, for_cpu=False)
    assert int((folder / "sync_for_device").read_text(), 0) == 0x1234_0000_0565
    files.sync(0xFFFF_FFF0, 0xFFFF_FFF0, IN, for_cpu=True)
    assert int((folder / "sync_for_cpu").read_text(), 0) == 0xFFFF_FFF0_FFFF_FFF9
    files.sync(0, 16, BOTH, for_cpu=True)
    assert int((folder / "sync_for_cpu").read_text(), 0) == 0x11
    assert not any((folder / f"sync_{name}").exists() for name in ("offset", "size", "direction"))
    (folder / "sync_for_cpu").unlink()
    files.sync(64, 0, BOTH, for_cpu=True)
    assert not (folder / "sync_for_cpu").exists(), "of nothing, not of what was synced last"


@pytest.mark.parametrize(
    ("version", "offset", "length"),
    [
        ("1.3.9", 64, 128),
        (None, 64, 128),
        ("unknown", 64, 128),
        ("5.5.0-rc1", 64, 129),
        ("5.5.0", 64, 8),
        ("5.5.0", 1 << 32, 128),
        ("5.5.0", 0, 1 << 32),
    ],
)
def test_a_sync_that_does_not_fit_is_four_writes_alone(
    board: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    offset: int,
    length: int,
) -> None:
    """Until the last of them other threads and processes of the library are kept out."""
    folder = board[0] / "udmabuf0"
    if version is not None:
        (folder / "driver_version").write_text(version)
    files = Attributes(folder)
    written: list[tuple[str, int, bool, bool]] = []

    def write(name: str, value: int) -> None:
        written.append((name, value, taken(folder), taken_for_others(folder)))

    monkeypatch.setattr(files, "_write", write)
    files.sync(offset, length, IN, for_cpu=False)
    assert written == [
        ("sync_offset", offset, True, True),
        ("sync_size", length, True, True),
        ("sync_direction", 2, True, True),
        ("sync_for_device", 1, True, True),
    ]
    assert not taken(folder)


def taken(folder: Path) -> bool:
    """Whether another thread would have to wait."""
    with (folder / "size").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def taken_for_others(folder: Path) -> bool:
    """Whether another process would have to wait: one that this one has made."""
    child = os.fork()
    if not child:
        os._exit(taken(folder))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_the_lock_of_a_process_that_stopped_is_waited_for_within_bounds(
    board: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = board[0] / "udmabuf0"
    files = Attributes(folder)
    monkeypatch.setattr(udmabuf_sysfs, "_LOCK_SECONDS", 0.0)
    with files.alone(), pytest.raises(IODeviceError, match="another thread or process") as caught:
        files.sync(0, 64, OUT, for_cpu=False)
    assert caught.value.code is IOReturn.kIOReturnCannotLock
    assert not (folder / "sync_for_device").exists()
    files.sync(0, 64, OUT, for_cpu=False)
    assert (folder / "sync_for_device").read_text() == "0x1"


# Cache modes.


@pytest.mark.parametrize(
    ("machine", "synchronous", "files", "mode"),
    [
        ("x86_64", True, {}, COPYBACK),
        ("i686", True, {"sync_mode": 6}, COPYBACK),
        ("aarch64", True, {}, INHIBIT),
        ("armv7l", True, {"sync_mode": 2}, WRITE_COMBINE),
        ("aarch64", True, {"sync_mode": 3}, WRITE_COMBINE),
        ("aarch64", True, {"sync_mode": 0}, COPYBACK),
        ("aarch64", False, {"sync_mode": 2}, COPYBACK),
        ("aarch64", False, {"sync_mode": 5}, INHIBIT),
        ("aarch64", False, {"quirk_mmap_mode": 1}, WRITE_COMBINE),
        ("aarch64", True, {"quirk_mmap_mode": 1}, WRITE_COMBINE),
        ("aarch64", False, {"quirk_mmap_mode": 1, "dma_coherent": 1}, COPYBACK),
        ("aarch64", False, {"quirk_mmap_mode": 3, "dma_coherent": 0}, COPYBACK),
        ("riscv64", False, {}, COPYBACK),
        ("riscv64", True, {}, None),
        ("riscv64", False, {"quirk_mmap_mode": 1}, None),
    ],
)
def test_what_a_mapping_is(
    board: tuple[Path, Path],
    machine: str,
    synchronous: bool,
    files: dict[str, int],
    mode: CacheMode | None,
) -> None:
    for name, number in files.items():
        (board[0] / "udmabuf0" / name).write_text(f"{number}\n")
    seen = Attributes(board[0] / "udmabuf0").mapped_as(machine, synchronous=synchronous)
    assert seen is mode


def test_a_pool_has_the_mode_that_its_mappings_have(board: tuple[Path, Path]) -> None:
    sysfs, devices = board
    folder = sysfs / "udmabuf0"
    for machine in "x86_64", "riscv64":
        with pytest.raises(IOUnsupportedError, match=f"mapping on {machine} would not be INHIBIT"):
            UDmaBufPool("udmabuf0", INHIBIT, sysfs=sysfs, devices=devices, machine=machine)
    for mode, number, uncached in (
        (INHIBIT, "0x1", True),
        (WRITE_COMBINE, "0x2", False),
        (COPYBACK, "0x2", False),
    ):
        pool = UDmaBufPool("udmabuf0", mode, sysfs=sysfs, devices=devices, machine="aarch64")
        assert (folder / "sync_mode").read_text() == number
        assert pool.mode is mode
        mapping = pool.map(Extent(pool.start, PAGE), mode)
        assert mapping._uncached is uncached
        mapping.close()
        pool.close()


def test_the_sync_mode_that_counts_is_that_of_the_mapping(
    board: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two pools of one device each sets its own, alone; another program's change is told."""
    sysfs, devices = board
    folder = sysfs / "udmabuf0"
    (folder / "sync_mode").write_text("5")
    made = [
        UDmaBufPool("udmabuf0", mode, sysfs=sysfs, devices=devices, machine="aarch64")
        for mode in (INHIBIT, WRITE_COMBINE)
    ]
    first, second = made
    for pool, number in (first, "0x5"), (second, "0x6"), (first, "0x5"):
        pool.map(Extent(pool.start, PAGE), pool.mode).close()
        assert (folder / "sync_mode").read_text() == number, "what is always stays so"
    monkeypatch.setattr(first, "_set_sync_mode", lambda: (folder / "sync_mode").write_text("2"))
    with pytest.raises(IOBusyError, match="changed, and the mapping may be WRITE_COMBINE"):
        first.map(Extent(first.start, PAGE), INHIBIT)
    for pool in made:
        pool.close()


def test_u_dma_buf_that_is_not_there(board: tuple[Path, Path]) -> None:
    sysfs, devices = board
    with pytest.raises(IODeviceError, match="udmabuf1") as caught:
        UDmaBufPool("udmabuf1", sysfs=sysfs, devices=devices)
    assert caught.value.code is IOReturn.kIOReturnNotAttached
    with pytest.raises(IOUnsupportedError, match="WRITE_THRU"):
        UDmaBufPool("udmabuf0", CacheMode.WRITE_THRU, sysfs=sysfs, devices=devices)
    (sysfs / "udmabuf0" / "size").write_text("much")
    with pytest.raises(IODeviceError, match=r"size: .*much"):
        UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)


# Placement.


def test_a_physical_mask_that_the_buffer_lies_below(board: tuple[Path, Path]) -> None:
    """Its last byte counts: the place is known, so it is neither refused nor taken on trust."""
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    dma_platform.use_pools(HeapPool(pool))
    make = IOBufferMemoryDescriptor.inTaskWithPhysicalMask
    last = pool.start + 64 * PAGE - 1
    try:
        with make(current_task(), kIODirectionInOut, 100, 0x1FFF_FFFF) as buffer:
            assert pool.start <= buffer.getPhysicalAddress() <= last
        with pytest.raises(IONoMemoryError, match=f"ends at {last:#x}, above 0xfffffff"):
            make(current_task(), kIODirectionInOut, 100, 0x0FFF_FFFF)
        assert HeapPool(pool).refuses(Request(100, highest=last)) == ""
        assert "above" in HeapPool(pool).refuses(Request(100, highest=last - 1))
    finally:
        dma_platform.use_pools()
        pool.close()
