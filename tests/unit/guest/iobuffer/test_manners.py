# SPDX-License-Identifier: Apache-2.0
"""Purging, and IOKit's manners: on memory of this machine."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IOMemoryMap,
    IOReturn,
    PurgeableState,
    current_task,
    cxx,
    kIODirectionIn,
    kIODirectionInOut,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.purgeable import Purgeable
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping

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


def test_none_and_codes_in_place_of_exceptions() -> None:
    make = cxx.IOBufferMemoryDescriptor
    dma_platform.use_pools(PageablePool())
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
        dma_platform.use_pools()


def test_pageable_memory_needs_no_kernel_until_it_is_wired() -> None:
    dma_platform.use_pools(PageablePool())
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
        dma_platform.use_pools()
