# SPDX-License-Identifier: Apache-2.0
"""Buffers for a device behind the IOMMU: the allocator has each mapped, whatever it is made of.

A buffer has bus addresses of its own then: one segment, for the buffer's direction, until the last
complete() or the release.
"""

from __future__ import annotations

import resource
from contextlib import ExitStack

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.vfio.container import ENTRY_LIMIT
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODMACommand,
    IOGeneralMemoryDescriptor,
    IOReturn,
    current_task,
    kernel_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMapInhibitCache,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryKernelUserShared,
    kIOMemoryMapperNone,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.linux.capabilities import CAP_IPC_LOCK, without_capability
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    Denial,
    DmaChecker,
    MakeBuffer,
    Mapper,
    Patterns,
)
from dma_rehearsal.guest.testkit.board import EFFECTIVE, described
from dma_rehearsal.guest.testkit.buffers import refusal
from dma_rehearsal.guest.testkit.iommu import HUGE_PAGE, Anonymous, scattered

pytestmark = [pytest.mark.iommu, pytest.mark.any_device]

SIZE = 16 * PAGE
ODD = SIZE - 100  # bytes: ends within a page
MAPPER = "mapper"
DENIAL = "mapper denial"
CONTIGUOUS = "kIOMemoryPhysicallyContiguous"
HOST_CONTIGUOUS = "kIOMemoryHostPhysicallyContiguous"
NONE = "kIOMemoryMapperNone"
create = IOBufferMemoryDescriptor.inTaskWithOptions

KINDS = {
    "carve-out": (kIODirectionInOut, "main"),
    "uncached": (kIODirectionInOut | kIOMapInhibitCache, "main"),
    "write-through": (kIODirectionInOut | kIOMapWriteThruCache, "main"),
    "copyback": (kIODirectionInOut | kIOMapCopybackCache, "main"),
    "write-combined": (kIODirectionInOut | kIOMapWriteCombineCache, "main"),
    "high": (kIODirectionInOut, "high"),
    "low": (kIODirectionInOut, "low"),
    "shared": (kIODirectionInOut | kIOMemoryKernelUserShared, "main"),
    "hugetlb": (kIODirectionInOut, "hugetlb"),
    "pinned": (kIODirectionInOut, "pinned"),
    "pageable": (kIODirectionInOut | kIOMemoryPageable, "pageable"),
}


@pytest.mark.promise(MAPPER)
@pytest.mark.parametrize("kind", KINDS)
def test_any_pool(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """One segment that begins elsewhere than the memory does; the cache mode is as asked."""
    length = bench.fits(ODD)
    options, pool = KINDS[kind]
    memory = buffer(options, length, pool=pool)
    memory.prepare()
    segments = memory.segments()
    read = bench.device_reads(memory, data.take(length))
    seen = bench.device_writes_by_page(memory, data.take(length))
    runs = bench.witness(memory)
    memory.complete()
    attest(
        MAPPER,
        asked=f"{length} bytes of {pool}, {memory.cache_mode.name}",
        attested=f"read {read}, stamped {seen}; {described(runs)}",
        kept=segments == [(seen.address, length)]
        and seen.address != runs[0].physical
        and {run.effective for run in runs} == {EFFECTIVE[memory.cache_mode]},
        reason=f"segments {segments}",
    )


@pytest.mark.promise(MAPPER)
def test_memory_of_no_process(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """kernel_task's: the kernel stores, and the device finds it, though nothing is mapped here."""
    length = bench.fits(ODD)
    with create(kernel_task, kIODirectionInOut | kIOMapWriteCombineCache, length) as memory:
        segments = memory.segments()
        bench.device_reads(memory, data.take(length))
        seen = bench.device_writes_by_page(memory, data.take(length))
        attest(
            MAPPER,
            asked=f"{length} bytes in kernel_task",
            attested=f"{seen}; mapped here: {memory.address != 0}",
            kept=segments == [(seen.address, length)] and not memory.address,
            reason=f"segments {segments}",
        )


@pytest.mark.unlimited
@pytest.mark.promise(MAPPER)
def test_existing_memory(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """withAddressRange, from the middle of a page on: scattered pages are one segment."""
    source = scattered(SIZE)
    start, length = source.address + 100, SIZE - PAGE
    with IOGeneralMemoryDescriptor.withAddressRange(
        start, length, kIODirectionInOut, current_task()
    ) as memory:
        memory.prepare()
        segments = memory.segments()
        bench.device_reads(memory, data.take(length))
        seen = bench.device_writes_by_page(memory, data.take(length))
        runs = bench.witness_range(start, length)
        memory.complete()
        after = refusal(memory.segments)
    attest(
        MAPPER,
        asked=f"{length} bytes of anonymous memory, from 100 of a page on",
        attested=f"{seen}; {len(runs)} physical runs; completed: {after and after.code.name}",
        kept=segments == [(seen.address, length)]
        and seen.address % PAGE == start % PAGE
        and len(runs) > 1
        and after is not None
        and after.code is IOReturn.kIOReturnNotReady,
        reason=f"segments {segments}",
    )


@pytest.mark.promise(MAPPER)
def test_small_buffers_share_no_page(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The mapper lets a device reach whole pages, so nobody else's bytes may be in them."""
    length = bench.fits(64)
    crowd = [buffer(kIODirectionInOut, length) for _ in range(4)]
    seen = [bench.device_writes(memory, data.take(length)) for memory in crowd]
    pages = {memory.address // PAGE for memory in crowd}
    attest(
        MAPPER,
        asked=f"4 buffers of {length} bytes",
        attested=f"{seen[0]}; on {len(pages)} pages",
        kept=len(pages) == len(crowd),
    )


@pytest.mark.promise(MAPPER)
@pytest.mark.parametrize(("mask", "alignment"), [(0x00FF_FFFF, PAGE), (0x07FF_0000, 65536)])
def test_physical_mask(
    bench: DmaChecker, data: Patterns, attest: Attest, mask: int, alignment: int
) -> None:
    """Of the bus address: the memory itself may lie above it."""
    with IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
        current_task(), kIODirectionInOut, SIZE, mask, pool="high"
    ) as memory:
        seen = bench.device_writes(memory, data.take(SIZE))
        physical = bench.witness(memory)[0].physical
    attest(
        MAPPER,
        asked=f"mask {mask:#x}",
        attested=f"{seen}; physical {physical:#x}",
        kept=seen.address % alignment == 0
        and seen.address + SIZE - 1 <= mask | alignment - 1
        and physical > mask,
    )


# The rights of devices.


@pytest.mark.promise(DENIAL)
def test_out_buffer_is_not_written(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    memory = buffer(kIODirectionOut, SIZE)
    expected = data.take(SIZE)
    bench.device_reads(memory, expected)
    denied("write", memory.getPhysicalAddress() + PAGE, DmaReason.READ_ONLY, write=True)
    denied.intact(memory, expected)
    denied.done("Out: a device write is refused", DENIAL)


@pytest.mark.promise(DENIAL)
def test_direction_that_changes(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """setDirection(In) and then Out: at the same bus address the device may write, then not."""
    memory = buffer(kIODirectionOut, SIZE)
    address = memory.getPhysicalAddress()
    memory.setDirection(kIODirectionIn)
    expected = data.take(SIZE)
    bench.device_writes(memory, expected)
    memory.setDirection(kIODirectionOut)
    if memory.getPhysicalAddress() != address:
        raise CheckFailed(f"the bus address moved to {memory.getPhysicalAddress():#x}")
    denied("write", address, DmaReason.READ_ONLY, write=True)
    denied.intact(memory, expected)
    denied.done("Out, In, Out: writes only in between", DENIAL)


@pytest.mark.promise(DENIAL)
def test_second_preparation(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """Out beside In lets the device do both; without In it only reads."""
    memory = buffer(kIODirectionIn | kIOMemoryPageable, SIZE, pool="pageable")
    memory.prepare(kIODirectionIn)
    memory.prepare(kIODirectionOut)
    expected = data.take(SIZE)
    bench.device_reads(memory, expected)
    bench.device_writes(memory, expected)
    address = memory.getPhysicalAddress()
    memory.complete(kIODirectionIn)  # Out is left
    denied("write", address, DmaReason.READ_ONLY, write=True)
    denied.intact(memory, expected)
    memory.complete(kIODirectionOut)
    denied.done("In and Out prepared, In completed: a device write is refused", DENIAL)


# When it ends.


@pytest.mark.promise(DENIAL)
def test_after_complete(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    memory = buffer(kIODirectionInOut | kIOMemoryPageable, SIZE, pool="pageable")
    memory.prepare()
    expected = data.take(SIZE)
    address = bench.device_writes(memory, expected).address
    memory.complete()
    for write in (False, True):
        what = "write" if write else "read"
        denied(what, address, DmaReason.UNMAPPED, write=write)
    denied.intact(memory, expected)
    denied.done("after the last complete(): refused", DENIAL)


@pytest.mark.unlimited
@pytest.mark.promise(DENIAL)
def test_after_release(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """The memory goes to another buffer, which the device does not reach."""
    pool_registry.wake()
    memory = buffer(kIODirectionInOut, SIZE, PAGE)
    physical = bench.witness(memory)[0].physical
    old = bench.device_writes(memory, data.take(SIZE)).address
    memory.release()
    pool_registry.wake()  # of the memory; its bus addresses rest
    with create(current_task(), kIODirectionInOut | kIOMemoryMapperNone, SIZE, PAGE) as following:
        if following.getPhysicalAddress() != physical:
            raise CheckFailed("the next buffer of the size is not in the same place")
        expected = data.take(SIZE)
        following.writeBytes(0, expected)
        denied("write", old, DmaReason.UNMAPPED, write=True)
        denied.intact(following, expected)
    denied.done("after release(): refused", DENIAL)


@pytest.mark.promise(DENIAL)
def test_outside_every_buffer(
    bench: DmaChecker, buffer: MakeBuffer, mapper: Mapper, data: Patterns, denied: Denial
) -> None:
    """A free bus address, and the physical one of a buffer, which a careless driver would use."""
    memory = buffer(kIODirectionInOut, SIZE)
    expected = data.take(SIZE)
    memory.writeBytes(0, expected)
    free = mapper.container.iova.allocate(PAGE)
    physical = bench.witness(memory)[0].physical
    for what, address in ("free address", free), ("physical address", physical):
        denied(what, address, DmaReason.UNMAPPED, write=True)
    mapper.container.iova.free(free)
    denied.intact(memory, expected)
    denied.done("outside every buffer: refused", DENIAL)


# Contiguous, and for whom.


@pytest.mark.promise(CONTIGUOUS)
def test_contiguous_to_the_device(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Behind the mapper scattered pages will do: the device has one segment all the same."""
    scatter = [buffer(kIODirectionInOut, PAGE, pool="pinned") for _ in range(64)]
    for each in scatter[::2]:
        each.release()
    pool_registry.wake()  # single frames come free
    memory = buffer(kIODirectionInOut | kIOMemoryPhysicallyContiguous, SIZE, pool="pinned")
    segment = memory.getPhysicalSegment()
    seen = bench.device_writes_by_page(memory, data.take(SIZE))
    runs = bench.witness(memory)
    attest(
        CONTIGUOUS,
        asked=f"{SIZE} bytes in one bus segment",
        attested=f"stamps in order: {seen}; {len(runs)} physical runs",
        kept=segment == (seen.address, SIZE) and len(runs) > 1,
        reason=f"the first segment is {segment[1]} bytes; {described(runs)}",
    )


@pytest.mark.promise(HOST_CONTIGUOUS)
def test_contiguous_in_memory(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Also behind the mapper; single pages, where that cannot be, are refused."""
    options = kIODirectionInOut | kIOMemoryHostPhysicallyContiguous
    memory = buffer(options, SIZE)
    seen = bench.device_writes_by_page(memory, data.take(SIZE))
    runs = bench.witness(memory)
    error = refusal(lambda: create(current_task(), options, SIZE, pool="pinned").release())
    attest(
        HOST_CONTIGUOUS,
        asked=f"{SIZE} bytes in one physical run; and of single pages",
        attested=f"stamps in order: {seen}; {described(runs)}; {error and error.code.name}",
        kept=len(runs) == 1
        and runs[0].physical != seen.address
        and error is not None
        and error.code is IOReturn.kIOReturnNoMemory
        and f"contiguous for {PAGE} bytes" in error.reason,
        reason=f"single pages: {error or 'given'}",
    )


@pytest.mark.unlimited
@pytest.mark.promise(NONE)
@pytest.mark.parametrize("options", [0, int(kIOMemoryMapperNone)], ids=["mapped", "MapperNone"])
def test_unmapped_command(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, options: int
) -> None:
    """Its segments are physical; on the bus the memory lies there with MapperNone alone."""
    memory = buffer(kIODirectionInOut | options, SIZE, PAGE, pool="pinned")
    physical = [(run.physical, run.length) for run in bench.witness(memory)]
    with IODMACommand.withSpecification(mappingOptions=IODMACommand.kUnmapped) as command:
        command.setMemoryDescriptor(memory)
        segments, _ = command.genIOVMSegments(0, SIZE)
    seen = bench.device_reads(memory, data.take(SIZE))
    attest(
        NONE,
        asked=f"kUnmapped, {memory.getOptions()}",
        attested=f"physical by the witness: {segments == physical}, where the device finds them: "
        f"{segments == memory.segments()}; {seen}",
        kept=segments == physical and (segments == memory.segments()) is bool(options),
    )


@pytest.mark.promise(NONE)
@pytest.mark.parametrize("kind", ["carve-out", "uncached", "pinned"])
def test_mapper_none(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """As if there were no mapper: the device finds each page at its physical address."""
    options, pool = KINDS[kind]
    memory = buffer(options | kIOMemoryMapperNone, SIZE, PAGE, pool=pool)
    bench.device_reads(memory, data.take(SIZE))
    seen = bench.device_writes_by_page(memory, data.take(SIZE))
    runs = bench.witness(memory)
    attest(
        NONE,
        asked=f"{SIZE} bytes of {pool}, {memory.cache_mode.name}",
        attested=f"{seen}; {described(runs[:1])}",
        kept=memory.segments() == [(run.physical, run.length) for run in runs],
        reason=f"segments {memory.segments()}; {described(runs)}",
    )


@pytest.mark.unlimited
@pytest.mark.promise(NONE)
def test_mapper_none_that_cannot_be(
    bench: DmaChecker, buffer: MakeBuffer, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The bus address belongs to another mapping: refused, and nothing is taken."""
    options = kIODirectionInOut | kIOMemoryMapperNone
    pool_registry.wake()
    with create(current_task(), options, SIZE, PAGE) as first:
        physical = first.getPhysicalAddress()
    pool_registry.wake()
    container, other = mapper.container, Anonymous(PAGE)
    with container.map(other.address, PAGE, read=True, write=False, address=physical):
        error = refusal(lambda: buffer(options, SIZE, PAGE))
        pool_registry.wake()
        mapped = buffer(kIODirectionInOut, SIZE, PAGE)
        there = bench.witness(mapped)[0].physical
        bench.device_reads(mapped, data.take(SIZE))
        mapped.release()
    pool_registry.wake()
    memory = buffer(options, SIZE, PAGE)
    seen = bench.device_reads(memory, data.take(SIZE))
    attest(
        NONE,
        asked=f"{SIZE} bytes where {physical:#x} is taken on the bus",
        attested=f"{error and error.code.name}; afterwards {seen}",
        kept=error is not None
        and error.code is IOReturn.kIOReturnUnsupported
        and f"bus address {physical:#x}" in error.reason
        and seen.address == there == physical,
        reason=f"{error or 'given'}; the next buffer is at {there:#x}",
    )


# Limits of the container.


@pytest.mark.promise(MAPPER)
def test_limit_of_mappings(
    bench: DmaChecker, buffer: MakeBuffer, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The buffer one too many is refused with the limit's name, and nothing of it stays."""
    limit = int(ENTRY_LIMIT.read_text())
    other, container = Anonymous(PAGE), mapper.container
    with ExitStack() as stack:
        for _ in range(container.available() or 0):
            stack.enter_context(container.map(other.address, PAGE, read=True, write=False))
        first = refusal(lambda: buffer(kIODirectionInOut, SIZE))
    memory = buffer(kIODirectionInOut, SIZE)
    seen = bench.device_reads(memory, data.take(SIZE))
    attest(
        MAPPER,
        asked="a buffer, and no mapping left",
        attested=f"{first and first.code.name}; afterwards {seen}",
        kept=first is not None
        and first.code is IOReturn.kIOReturnNoResources
        and f"dma_entry_limit {limit}" in first.reason,
        reason=f"{first or 'given'}",
    )


@pytest.mark.promise(MAPPER)
def test_limit_of_locked_memory(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut | kIOMemoryPageable, 2 * HUGE_PAGE, pool="pageable")
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with without_capability(CAP_IPC_LOCK):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (PAGE, before[1]))
        try:
            error = refusal(memory.prepare)
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
    unprepared = memory.prepared
    memory.prepare()
    seen = bench.device_reads(memory, data.take(SIZE))
    memory.complete()
    attest(
        MAPPER,
        asked=f"{2 * HUGE_PAGE} bytes prepared where {PAGE} may be locked",
        attested=f"{error and error.code.name}; with the right to it, {seen}",
        kept=error is not None
        and error.code is IOReturn.kIOReturnCannotWire
        and "RLIMIT_MEMLOCK" in error.reason
        and not unprepared,
        reason=f"{error or 'prepared'}; {unprepared} preparation(s) open",
    )
