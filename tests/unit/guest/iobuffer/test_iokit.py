# SPDX-License-Identifier: Apache-2.0
"""Where the allocator differs from IOKit: what it refuses, what it lets pass, what ``strict`` does.

docs/iobuffer.md has the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODirection,
    IOMapWarning,
    IONotReadyError,
    IOOptions,
    IOReturn,
    IOReturnError,
    current_task,
    cxx,
    kernel_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapAnywhere,
    kIOMapInhibitCache,
    kIOMapOverwrite,
    kIOMapPrefault,
    kIOMapReadOnly,
    kIOMapStatic,
    kIOMapUnique,
    kIOMemoryIncoherentIOStore,
    kIOMemoryMapperNone,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryPurgeable,
    kIOMemoryPurgeableVolatile,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from tests.unit.guest.memory_pool import MemoryPool, make

PAGEABLE = kIODirectionInOut | kIOMemoryPageable
Buffer = IOBufferMemoryDescriptor


class Strict(IOBufferMemoryDescriptor):
    """IOKit's rules, with exceptions."""

    strict = True


@pytest.fixture(autouse=True)
def every_pool(main: MemoryPool) -> Iterator[None]:
    """Wired and pageable memory."""
    dma_platform.use_pools(HeapPool(main), PageablePool())
    yield
    dma_platform.use_pools()


# strict: IOKit refuses, and it can be done here.


@pytest.mark.parametrize("mode", [0, 0x100, 0x300])
def test_wired_memory_of_a_user_task(mode: int) -> None:
    options = kIODirectionInOut | mode
    with pytest.raises(IOBadArgumentError, match="kernel_task alone; add kIOMemoryPageable"):
        Strict.inTaskWithOptions(current_task(), options, PAGE)
    with pytest.raises(IOBadArgumentError, match="kernel_task alone"):
        Strict.inTaskWithPhysicalMask(current_task(), options, PAGE, 0xFFFF_F000)
    assert cxx.IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, PAGE) is None
    error = cxx.last_error()
    assert error is not None
    assert error.code is IOReturn.kIOReturnBadArgument
    made = cxx.IOBufferMemoryDescriptor.inTaskWithOptions(kernel_task, options, PAGE)
    assert made is not None
    assert made.release() is cxx.kIOReturnSuccess
    for kind, task, more in (
        (Strict, kernel_task, 0),
        (Buffer, current_task(), 0),
        *([] if mode == 0x100 else [(Strict, current_task(), int(kIOMemoryPageable))]),
    ):
        kind.inTaskWithOptions(task, options | more, PAGE).release()


@pytest.mark.parametrize("kind", [Strict, Buffer])
def test_where_memory_is_made_when_no_task_is_named(kind: type[Buffer]) -> None:
    """In IOKit the caller is the kernel."""
    task = kernel_task if kind.strict else current_task()
    for made in (
        kind.withOptions(kIODirectionInOut, 100),
        kind.withCapacity(100, kIODirectionIn),
        kind.withBytes(b"abc", kIODirectionOut),
    ):
        assert made.task == task
        assert bool(made.address) is not kind.strict
        made.release()


def test_a_mapping_ends_with_the_length() -> None:
    """IOKit goes by the length, and here a mapping may go on to the capacity."""
    with (
        Strict.inTaskWithOptions(current_task(), PAGEABLE, 2 * PAGE) as strict,
        Buffer.inTaskWithOptions(current_task(), PAGEABLE, 2 * PAGE) as laxer,
    ):
        for memory in strict, laxer:
            memory.setLength(PAGE)
            memory.createMappingInTask(current_task(), 0, 1, 0, PAGE).unmap()
        with pytest.raises(IOBadArgumentError, match="4096 can be mapped"):
            strict.createMappingInTask(current_task(), 0, 1, 0, PAGE + 1)
        laxer.createMappingInTask(current_task(), 0, 1, 0, PAGE + 1).unmap()
        strict.setLength(2 * PAGE)
        strict.createMappingInTask(current_task(), 0, 1, 0, 2 * PAGE).unmap()


def test_memory_that_is_prepared_for_out_takes_no_bytes() -> None:
    """IOKit's writeBytes stores nothing there; appendBytes, and what made the buffer, does."""
    with Strict.withBytes(b"made", kIODirectionOut) as made:
        assert made.writeBytes(0, b"lost") == 0
        assert made.writeBytes(0, None) == 0
        assert made.readBytes(0, 4) == b"made"
        made.setLength(0)
        assert made.appendBytes(b"more") == 4
        assert made.readBytes(0, 4) == b"more"
        made.setDirection(kIODirectionInOut)
        assert made.writeBytes(0, b"kept") == 4
    with Strict.withBytes(b"made", kIODirectionIn) as made:
        assert made.writeBytes(0, b"kept") == 4
    with (
        Strict.inTaskWithOptions(current_task(), PAGEABLE, 4) as pageable,
        pytest.raises(IONotReadyError, match="panics"),
    ):
        pageable.writeBytes(0, b"lost")
    with Buffer.withBytes(b"made", kIODirectionOut) as laxer:
        assert laxer.writeBytes(0, b"kept") == 4


def test_memory_that_is_not_prepared_has_no_bytes_to_read() -> None:
    with Strict.inTaskWithOptions(current_task(), PAGEABLE, 4) as strict:
        with strict.view() as view:
            view[:] = b"here"
        with pytest.raises(IONotReadyError, match=r"readBytes\(\).*panics"):
            strict.readBytes(0, 4)
    with Buffer.inTaskWithOptions(current_task(), PAGEABLE, 4) as laxer:
        assert laxer.writeBytes(0, b"here") == 4
        assert laxer.readBytes(0, 4) == b"here"


def test_copies_are_pageable() -> None:
    with pytest.raises(IOBadArgumentError, match="withCopy"):
        Strict.withCopy(kernel_task, kIODirectionInOut, b"abc")
    with Strict.withCopy(current_task(), PAGEABLE, b"abc") as copy, copy.view() as view:
        assert bytes(view) == b"abc"
    with Buffer.withCopy(current_task(), kIODirectionInOut, b"abc") as laxer:
        assert laxer.readBytes(0, 3) == b"abc"


# As IOKit, in any case.


def test_mapper_none_is_one_of_the_cache_bits() -> None:
    for options, alignment in (
        (kIODirectionInOut, 1),
        (kIODirectionInOut | kIOMemoryMapperNone, PAGE),
        (kIODirectionInOut | kIOMapInhibitCache, PAGE),
    ):
        with make(100, 1, options) as memory:
            assert memory.alignment == alignment
            assert memory.getPhysicalAddress() % alignment == 0
            assert memory.getLength() == 100


@pytest.mark.parametrize(
    ("capacity", "alignment"), [(1, 1), (100, 128), (PAGE, PAGE), (20000, 32768)]
)
def test_contiguous_memory_is_aligned_to_its_capacity(capacity: int, alignment: int) -> None:
    # The buffer in front keeps a lower alignment from being met by chance.
    with make(64), Buffer.withCapacity(capacity, kIODirectionIn, True) as memory:
        assert memory.alignment == alignment
        assert memory.getPhysicalAddress() % alignment == 0
        assert memory.getCapacity() == capacity
        assert kIOMemoryPhysicallyContiguous in memory.getOptions()
    with Buffer.withCapacity(capacity, kIODirectionIn) as memory:
        assert memory.alignment == 1
    for bad in 0, -1, "1":
        with pytest.raises(IOBadArgumentError):
            Buffer.withCapacity(bad, kIODirectionIn, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "alignment"), [(1, 1), (3, 4), (PAGE, PAGE), (PAGE + 1, PAGE)])
def test_bytes_are_aligned_to_their_length(length: int, alignment: int) -> None:
    with Buffer.withBytes(bytes(length), kIODirectionOut) as memory:
        assert memory.alignment == alignment


def test_an_id_is_a_wirings() -> None:
    """The same from the first prepare() to the last complete(), and no other wiring's."""
    with Buffer.inTaskWithOptions(current_task(), kIODirectionIn, 100) as wired:
        own = wired.getPreparationID()
        wired.prepare()
        assert wired.getPreparationID() == own > 0
        wired.complete()
        assert wired.getPreparationID() == own
        with Buffer.inTaskWithOptions(current_task(), kIODirectionIn, 100) as other:
            assert other.getPreparationID() > own


# Stricter: IOKit lets it pass in silence, or means nothing by it.


def refused(code: IOReturn, call: Callable[[], object]) -> None:
    with pytest.raises(IOReturnError) as error:
        call()
    assert error.value.code is code


@pytest.mark.parametrize(
    ("options", "alignment"),
    [
        (kIODirectionInOut | kIOMemoryPurgeable, 1),
        (PAGEABLE | kIOMemoryPhysicallyContiguous, 1),
        (PAGEABLE, 2 * PAGE),
        (kIODirectionInOut | 0x0100_0000, 1),
        (kIODirectionInOut | IOOptions(int(kIOMapPrefault)), 1),
        (kIODirectionInOut, 3),
        (kIODirectionInOut, 0),
    ],
)
def test_options_and_alignments_without_a_meaning(options: IOOptions, alignment: int) -> None:
    refused(IOReturn.kIOReturnBadArgument, lambda: make(PAGE, alignment, options))


def test_a_mask_with_holes() -> None:
    def masked(mask: int) -> Buffer:
        return Buffer.inTaskWithPhysicalMask(current_task(), kIODirectionIn, PAGE, mask)

    refused(IOReturn.kIOReturnBadArgument, lambda: masked(0xF0F0_0000))
    masked(0xFFFF_F000).release()


def test_lengths_and_directions() -> None:
    with make(100) as memory:
        refused(IOReturn.kIOReturnBadArgument, lambda: memory.setLength(101))
        memory.prepare()
        refused(IOReturn.kIOReturnBusy, lambda: memory.setDirection(kIODirectionIn))
        refused(IOReturn.kIOReturnBusy, memory.release)
        refused(IOReturn.kIOReturnNotReady, lambda: memory.complete(kIODirectionOut))
        memory.complete()
        refused(IOReturn.kIOReturnNotReady, memory.complete)
        memory.setLength(0)
        assert memory.getBytesNoCopy() is None
        refused(
            IOReturn.kIOReturnBadArgument,
            lambda: memory.performOperation(kIOMemoryIncoherentIOStore, 0, 1),
        )
        refused(IOReturn.kIOReturnBadArgument, lambda: memory.prepare(flags=0x100))


def test_a_purgeable_state_has_no_behaviours() -> None:
    """IOKit takes VM_PURGABLE's in the bits above the state."""
    with make(PAGE, 1, PAGEABLE | kIOMemoryPurgeable) as memory:
        volatile = int(kIOMemoryPurgeableVolatile)
        refused(IOReturn.kIOReturnBadArgument, lambda: memory.setPurgeable(volatile | 1 << 6))
        memory.setPurgeable(volatile)


def test_the_capacity_is_prepared(main: MemoryPool) -> None:
    """IOKit wires the length of the moment, so it has to be prepared anew for more."""
    granted: list[tuple[int, int]] = []

    class Control:
        def grant(self, address: int, length: int, direction: IODirection) -> object:
            granted.append((address, length))
            return direction

        def withdraw(self, grant: object) -> None: ...

        def reclaim(self) -> None: ...

    with make(2 * PAGE, pool=main.name) as memory:
        memory.setLength(10)
        before, dma_platform.access_control = dma_platform.access_control, Control()
        memory.prepare()
        dma_platform.access_control = before
        assert granted == [(memory.getPhysicalAddress(), 2 * PAGE)]
        assert memory.getPhysicalSegment()[1] == 10
        memory.complete()


def test_rights_are_those_of_all_preparations() -> None:
    """IOKit has the newest one's; NotWritable goes by the first that is open."""
    with Buffer.inTaskWithOptions(current_task(), kIODirectionIn, 100) as memory:
        memory.prepare(kIODirectionOut)
        assert memory._preparations.rights() == kIODirectionInOut.direction
        memory.complete()
        assert memory._preparations.rights() == kIODirectionIn.direction


def test_mappings() -> None:
    task = current_task()
    with make(2 * PAGE, PAGE, kIODirectionOut) as memory:
        call = memory.createMappingInTask
        refused(IOReturn.kIOReturnBadArgument, lambda: call(task, 0, kIOMapOverwrite))
        refused(IOReturn.kIOReturnNotAttached, lambda: call(task, 0, 1 | 0x0200_0000))
        # IOKit gives the writable original for ReadOnly; a part of a mapping shares its address.
        with call(task, 0, 1 | kIOMapReadOnly) as looking:
            assert looking.read_only
            assert looking.getVirtualAddress() != memory.address
        with pytest.warns(IOMapWarning), call(task, 0, 1 | kIOMapUnique, PAGE, PAGE) as part:
            assert part.getVirtualAddress() != memory.address + PAGE
    with make(PAGE, 1, PAGEABLE) as memory:
        refused(
            IOReturn.kIOReturnBusy,
            lambda: memory.createMappingInTask(task, 0, 1 | int(kIOMapInhibitCache)),
        )


# Laxer: IOKit refuses, and what is done here says enough.


def test_an_address_with_or_without_anywhere() -> None:
    """IOKit ignores an address with Anywhere, and takes 0 without it at its word."""
    task = current_task()
    with make(PAGE, PAGE) as memory:
        free = memory.createMappingInTask(task, 0, kIOMapAnywhere | kIOMapUnique)
        place = free.getVirtualAddress()
        free.unmap()
        for options in kIOMapUnique, kIOMapUnique | kIOMapAnywhere:
            with memory.createMappingInTask(task, place, options) as mapped:
                assert mapped.getVirtualAddress() == place
        with memory.createMappingInTask(task, 0, 0) as mapped:
            assert mapped.getVirtualAddress() == memory.address
        with memory.createMappingInTask(task, 0, kIOMapStatic | kIOMapUnique) as mapped:
            assert mapped.getVirtualAddress()


def test_a_complete_while_dma_is_active_is_refused() -> None:
    """IOKit panics."""
    with make(PAGE) as memory:
        memory.prepare()
        with IODMACommand.withSpecification() as command:
            command.setMemoryDescriptor(memory)
            with pytest.raises(IOBusyError):
                memory.release()
        memory.complete()


def test_what_is_appended_is_counted() -> None:
    """IOKit says True, whatever there was room for."""
    with make(3) as memory:
        memory.setLength(1)
        assert memory.appendBytes(b"abc") == 2
        assert memory.appendBytes(b"abc") == 0
