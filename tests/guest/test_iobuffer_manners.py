"""Purging, u-dma-buf, and IOKit's manners: on memory of this machine, and on files for sysfs."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
from iobuffer import (
    CacheMode,
    IOAlignmentWarning,
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IODeviceError,
    IOMemoryMap,
    IONoMemoryError,
    IOReturn,
    IOSubMemoryDescriptor,
    IOUnsupportedError,
    PurgeableState,
    coherence,
    current_task,
    cxx,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMemoryIncoherentIOFlush,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
    pools,
)
from iobuffer.heap_pool import HeapPool
from iobuffer.managed import PageablePool
from iobuffer.pool import PAGE
from iobuffer.purgeable import Purgeable
from iobuffer.udmabuf import UDmaBufCoherence, UDmaBufPool
from iobuffer.vm import Mapping

NON_VOLATILE = PurgeableState.kIOMemoryPurgeableNonVolatile
VOLATILE = PurgeableState.kIOMemoryPurgeableVolatile
EMPTY = PurgeableState.kIOMemoryPurgeableEmpty
KEEP = PurgeableState.kIOMemoryPurgeableKeepCurrent


@pytest.fixture
def memory() -> Iterator[Mapping]:
    mapping = Mapping(-1, 8 * PAGE)
    yield mapping
    mapping.close()


CONTENTS = {
    "zeros": bytes(8 * PAGE),
    "one byte": bytes(5) + b"\7" + bytes(8 * PAGE - 6),
    "two bytes": b"\1" + bytes(8 * PAGE - 2) + b"\2",
    "dense": bytes(range(1, 129)) * (8 * PAGE // 128),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_nothing_is_lost_without_a_purge(memory: Mapping, content: bytes) -> None:
    memory.write(0, content)
    purgeable = Purgeable(memory)
    assert purgeable.set(VOLATILE) is NON_VOLATILE
    assert not purgeable.usable
    assert purgeable.set(KEEP) is VOLATILE
    assert purgeable.set(NON_VOLATILE) is VOLATILE
    assert purgeable.usable
    assert memory.read(0, 8 * PAGE) == content


@pytest.mark.parametrize("page", range(8))
@pytest.mark.parametrize("content", ["two bytes a page", "dense"])
def test_one_lost_page_is_noticed(memory: Mapping, page: int, content: str) -> None:
    """MADV_DONTNEED does to one page what the kernel does when it wants the memory."""
    if content == "dense":
        memory.write(0, CONTENTS["dense"])
    else:
        for at in range(8):
            memory.write(at * PAGE + 7, b"\1\2")
    purgeable = Purgeable(memory)
    purgeable.set(VOLATILE)
    part = Mapping.adopt(memory.address + page * PAGE, PAGE)
    part.advise(mmap.MADV_DONTNEED)
    assert purgeable.set(KEEP) is EMPTY
    assert purgeable.set(NON_VOLATILE) is EMPTY
    assert memory.read(0, 8 * PAGE) == bytes(8 * PAGE)


def test_empty_stays_empty(memory: Mapping) -> None:
    memory.write(0, CONTENTS["dense"])
    purgeable = Purgeable(memory)
    assert purgeable.set(EMPTY) is NON_VOLATILE
    assert purgeable.set(VOLATILE) is EMPTY
    assert purgeable.set(NON_VOLATILE) is EMPTY
    assert purgeable.set(KEEP) is NON_VOLATILE
    assert memory.read(0, 8 * PAGE) == bytes(8 * PAGE)


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
    pools.use(HeapPool(pool))
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
        pools.use()
        pool.close()


def test_u_dma_buf_maintains_the_caches(board: tuple[Path, Path]) -> None:
    """As the front end asks it to, with the place in the device's own buffer."""
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    folder = sysfs / "udmabuf0"
    pools.use(HeapPool(pool))
    caches = UDmaBufCoherence(pool)
    before = coherence.use(caches)

    def written(*names: str) -> list[str]:
        return [(folder / f"sync_{name}").read_text() for name in names]

    try:
        with IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, 300) as buffer:
            at = buffer.getPhysicalAddress() - pool.start
            buffer.sync_for_device(64, 128, kIODirectionOut)
            assert written("offset", "size", "direction") == [str(at + 64), "128", "1"]
            assert written("for_device") == ["1"]
            assert not (folder / "sync_for_cpu").exists()
            part = IOSubMemoryDescriptor.withSubRange(buffer, 100, 64, kIODirectionIn)
            part.sync_for_cpu(0, 64)
            assert written("for_cpu", "direction", "offset") == ["1", "2", str(at + 100)]
            part.release()
            buffer.performOperation(kIOMemoryIncoherentIOFlush, 0, 300)
            assert written("offset", "size", "direction") == [str(at), "300", "0"]
            with pytest.raises(IODeviceError, match="no u-dma-buf"):
                UDmaBufCoherence().clean(buffer, 0, 64)
    finally:
        coherence.use(before)
        pools.use()
        pool.close()


@pytest.mark.parametrize("line", [64, 128])
def test_alignment_where_devices_do_not_snoop(board: tuple[Path, Path], line: int) -> None:
    """Left out, it is a line; less is warned of, unless the memory has whole pages anyway."""
    sysfs, devices = board
    pool = UDmaBufPool("udmabuf0", sysfs=sysfs, devices=devices)
    pools.use(HeapPool(pool))
    before = coherence.use(UDmaBufCoherence(pool, line=line))
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
        coherence.use(before)
        pools.use()
        pool.close()


def test_u_dma_buf_that_is_not_there(board: tuple[Path, Path]) -> None:
    sysfs, devices = board
    with pytest.raises(IODeviceError, match="udmabuf1"):
        UDmaBufPool("udmabuf1", sysfs=sysfs, devices=devices)
    with pytest.raises(IOUnsupportedError, match="WRITE_THRU"):
        UDmaBufPool("udmabuf0", CacheMode.WRITE_THRU, sysfs=sysfs, devices=devices)
    uncached = UDmaBufPool("udmabuf0", CacheMode.INHIBIT, sysfs=sysfs, devices=devices)
    assert (sysfs / "udmabuf0" / "sync_mode").read_text() == "1"
    uncached.close()


def test_none_and_codes_in_place_of_exceptions() -> None:
    make = cxx.IOBufferMemoryDescriptor
    pools.use(PageablePool())
    try:
        assert make.inTaskWithOptions(current_task(), kIODirectionIn, 0) is None
        error = cxx.last_error()
        assert error is not None
        assert error.code is IOReturn.kIOReturnBadArgument
        assert make.withCapacity(1 << 62, kIODirectionIn) is None
        assert make.withBytes(b"abc", 7) is None
        options = kIODirectionInOut | kIOMemoryPageable | kIOMemoryPurgeable
        buffer = make.inTaskWithOptions(current_task(), options, 100)
        assert buffer is not None
        assert cxx.last_error() is None
        assert buffer.complete() is IOReturn.kIOReturnNotReady
        assert buffer.performOperation(9, 0, 1) is IOReturn.kIOReturnUnsupported
        assert buffer.createMappingInTask(current_task(), 0, 1, 100, 1) is None
        mapped = buffer.createMappingInTask(current_task())
        assert isinstance(mapped, IOMemoryMap)
        assert buffer.release() is IOReturn.kIOReturnBusy
        mapped.unmap()
        assert buffer.setPurgeable(9) == (IOReturn.kIOReturnBadArgument, 0)
        assert buffer.setPurgeable(EMPTY) == (cxx.kIOReturnSuccess, NON_VOLATILE)
        assert buffer.release() is cxx.kIOReturnSuccess
    finally:
        pools.use()


def test_pageable_memory_needs_no_kernel_until_it_is_wired() -> None:
    pools.use(PageablePool())
    try:
        with IOBufferMemoryDescriptor.withOptions(
            kIODirectionInOut | kIOMemoryPageable, 3 * PAGE + 1
        ) as buffer:
            assert "not prepared" in repr(buffer)
            assert buffer.appendBytes(b"x") == 0
            buffer.setLength(3)
            assert buffer.appendBytes(b"abc") == 3
            assert buffer.readBytes(3, 3) == b"abc"
            assert buffer.readBytes(3, 4) == b""
            assert buffer.writeBytes(5, b"xy") == 0
            assert buffer.writeBytes(0, None) == 6
            assert bytes(buffer.view()) == bytes(6)
            assert buffer.getBytesNoCopy(6) is None
            assert buffer.getBytesNoCopy(2, 5) is None
            part = buffer.getBytesNoCopy(2, 4)
            assert part is not None
            assert len(part) == 4
            part.release()
            with pytest.raises(IOBadArgumentError):
                buffer.setLength(3 * PAGE + 2)
            assert buffer.getDMAMapLength() == (PAGE, 0)
    finally:
        pools.use()
