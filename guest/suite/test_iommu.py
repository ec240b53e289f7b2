# SPDX-License-Identifier: Apache-2.0
"""A device behind an IOMMU: it reaches what was mapped, at the address and the way it was mapped.

The IOMMU refuses all other accesses: nothing moves, the device records the refusal, and the
kernel logs a fault. The host looks for that fault in what the kernel prints.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dma_rehearsal.device.layout import DmaReason, Reg
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.drivers.vfio.container import ENTRY_LIMIT
from dma_rehearsal.guest.drivers.vfio.iova import IovaAllocator
from dma_rehearsal.guest.iobuffer import IOReturn, kIODirectionInOut
from dma_rehearsal.guest.linux.capabilities import CAP_IPC_LOCK, without_capability
from dma_rehearsal.guest.testkit import (
    Attest,
    Denial,
    DmaChecker,
    MakeBuffer,
    Mapper,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.board import described
from dma_rehearsal.guest.testkit.buffers import reached_pool, refusal
from dma_rehearsal.guest.testkit.claims import MODES
from dma_rehearsal.guest.testkit.iommu import (
    HUGE_PAGE,
    Anonymous,
    MappedMemory,
    huge_pages,
    scattered,
)

pytestmark = pytest.mark.iommu

SIZE = 16 * PAGE
MASK = "IOMMU mask"
LINUX_GRANTS_READS = "Linux's VFIO lets a device read what was mapped for its writes alone"


def both_ways(bench: DmaChecker, memory: MappedMemory, data: Patterns) -> str:
    """Let the device read and write all of ``memory``; return what was seen."""
    length = memory.getLength()
    bench.device_reads(memory, data.take(length))
    return f"both ways: {bench.device_writes(memory, data.take(length))}"


@pytest.mark.promise("IOMMU mapping")
def test_anonymous_memory(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    seen = both_ways(bench, mapper(Anonymous(SIZE)), data)
    attest("IOMMU mapping", asked=f"{SIZE} bytes of anonymous memory", attested=seen, kept=True)


@pytest.mark.any_device
@pytest.mark.promise("IOMMU mapping")
def test_huge_page(bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest) -> None:
    with huge_pages(1):
        memory = mapper(Anonymous(HUGE_PAGE, huge=True))
        seen = both_ways(bench, memory, data)
    attest("IOMMU mapping", asked=f"{HUGE_PAGE} bytes of hugetlb", attested=seen, kept=True)


@pytest.mark.any_device
@pytest.mark.promise("IOMMU mapping")
@pytest.mark.parametrize("mode", MODES)
def test_carve_out(
    bench: DmaChecker, mapper: Mapper, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: str
) -> None:
    """The CPU's cache mode stays what it was."""
    option, wanted = MODES[mode]
    carved = buffer(kIODirectionInOut | option, SIZE, 4096)
    memory = mapper(carved)
    seen = both_ways(bench, memory, data)
    runs = bench.witness(memory)
    address, _ = memory.getPhysicalSegment(0)
    attest(
        "IOMMU mapping",
        asked=f"{SIZE} bytes of the carve-out, {wanted.name}",
        attested=f"{seen}; {described(runs)}",
        kept={run.effective for run in runs} == {wanted} and address != runs[0].physical,
        reason="the cache mode changed, or the bus address is the physical one",
    )


@pytest.mark.promise("IOMMU contiguity")
def test_one_segment_where_physical_pages_are_many(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """Each DMA moves as much as the device can; the witness says that they are not neighbours."""
    memory = mapper(scattered(SIZE))
    expected = data.take(SIZE)
    seen = bench.device_reads(memory, expected)
    runs = bench.witness(memory)
    segments = memory.iova.segments
    due = len(bench.limits.split(seen.address, SIZE, bench.device.buffer_size))
    attest(
        "IOMMU contiguity",
        asked=f"{SIZE} bytes in one segment",
        attested=f"{seen}; {len(runs)} physical runs",
        kept=segments == ((seen.address, SIZE),) and seen.dmas == due and len(runs) > 1,
        reason=f"segments {segments}, {due} DMAs are due; {described(runs)}",
    )


@pytest.mark.any_device
@pytest.mark.promise("IOMMU direction")
def test_out_mapping_is_read(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    memory = mapper(Anonymous(SIZE), write=False)
    seen = bench.device_reads(memory, data.take(SIZE))
    attest("IOMMU direction", asked="READ: the device reads", attested=f"{seen}", kept=True)


@pytest.mark.any_device
@pytest.mark.promise("IOMMU direction")
def test_in_mapping_is_written(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    memory = mapper(Anonymous(SIZE), read=False)
    seen = bench.device_writes(memory, data.take(SIZE))
    attest("IOMMU direction", asked="WRITE: the device writes", attested=f"{seen}", kept=True)


@pytest.mark.any_device
@pytest.mark.promise("IOMMU direction")
def test_in_mapping_is_not_read(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The protection unit, by bus address, denies what the IOMMU lets through."""
    memory = mapper(Anonymous(SIZE), read=False)
    inside, length = data.take(PAGE), bench.one_dma(PAGE)
    bench.load(inside)
    due = DmaReason.PROTECTION_DIRECTION
    record = bench.refused_dma(due, memory.getPhysicalAddress(), length, write_memory=False)
    wrong = difference(inside, bench.stored(PAGE))
    attest(
        "IOMMU direction",
        asked="WRITE: a device read is refused by the protection unit",
        attested=f"{record.reason.name}, {record.moved} bytes moved",
        kept=(record.reason, record.moved) == (due, 0) and not wrong,
        reason=wrong,
        evidence="refusal",
    )


@pytest.mark.any_device
@pytest.mark.unprotected
@pytest.mark.promise("IOMMU denial of reads")
def test_in_mapping_is_readable_all_the_same(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The IOMMU alone does not deny it. Fails when Linux does better, for this to be changed."""
    memory = mapper(Anonymous(SIZE), read=False)
    bench.device_reads(memory, data.take(SIZE))
    attest.unattested(
        "IOMMU denial of reads", asked="WRITE: a device read is refused", reason=LINUX_GRANTS_READS
    )


@pytest.mark.promise("IOMMU denial")
def test_write_to_an_out_mapping(
    bench: DmaChecker, mapper: Mapper, data: Patterns, denied: Denial
) -> None:
    memory = mapper(Anonymous(SIZE), write=False)
    address, _ = memory.getPhysicalSegment(8 * bench.limits.alignment)
    expected = data.take(SIZE)
    with memory.view() as view:
        view[:] = expected
        denied("write", address, DmaReason.READ_ONLY, write=True)
        denied.memory_intact(view, expected)
    denied.done("READ: a device write is refused")


@pytest.mark.promise("IOMMU denial")
def test_access_after_unmap(
    bench: DmaChecker, mapper: Mapper, data: Patterns, denied: Denial
) -> None:
    """The device has used the mapping both ways before; the memory stays this process's."""
    source = Anonymous(SIZE)
    memory = mapper(source)
    both_ways(bench, memory, data)
    address, _ = memory.getPhysicalSegment(0)
    memory.close()
    expected = data.take(SIZE)
    with source.view() as view:
        view[:] = expected
        for write in (False, True):
            what = "write" if write else "read"
            denied(what, address, DmaReason.UNMAPPED, write=write, length=SIZE)
        denied.memory_intact(view, expected)
    denied.done("after unmap: refused")


@pytest.mark.promise("IOMMU denial")
def test_access_outside_every_mapping(mapper: Mapper, data: Patterns, denied: Denial) -> None:
    source = Anonymous(SIZE)
    memory = mapper(source)
    expected = data.take(SIZE)
    with source.view() as view:
        view[:] = expected
        outside = memory.getPhysicalSegment(0)[0] + SIZE
        denied("write behind it", outside, DmaReason.UNMAPPED, write=True)
        denied("read behind it", outside, DmaReason.UNMAPPED, write=False)
        denied.memory_intact(view, expected)
    denied.done("outside every mapping: refused")


@pytest.mark.promise("IOMMU denial")
def test_by_the_ring(bench: DmaChecker, mapper: Mapper, denied: Denial) -> None:
    """Its transfers end, and it halts, when the IOMMU has refused them."""
    memory = mapper(Anonymous(PAGE))
    address, _ = memory.getPhysicalSegment(0)
    with memory.view() as view, DescriptorRing(bench.device, view, address, 16) as ring:
        for write in (True, False):
            what = "write" if write else "read"
            denied(what, address + PAGE, DmaReason.UNMAPPED, write=write, ring=ring)
    denied.done("the ring's transfers outside every mapping: refused")


@pytest.mark.promise("IOMMU denial")
def test_physical_address(
    bench: DmaChecker, mapper: Mapper, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """A physical address, as a driver that forgets the IOMMU would use; good only without one."""
    source = buffer(kIODirectionInOut, PAGE, PAGE, pool=reached_pool(bench.limits))
    memory = mapper(source)
    expected = data.take(PAGE)
    with source.view() as view:
        view[:] = expected
        (run,) = bench.witness(memory)
        denied("write", run.physical, DmaReason.UNMAPPED, write=True)
        denied.memory_intact(view, expected)
    denied.done("the physical address: refused")


@contextmanager
def full(iova: IovaAllocator, bits: int) -> Iterator[None]:
    """Have no bus address below 2**``bits`` free."""
    taken: list[int] = []
    try:
        while room := iova.largest(bits):
            taken.append(iova.allocate(room, bits=bits))
        yield
    finally:
        for address in taken:
            iova.free(address)


@pytest.mark.promise(MASK)
def test_memory_beyond_the_device(
    bench: DmaChecker, mapper: Mapper, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Above 4 GiB, where a narrow device cannot reach it, and without a bounce."""
    memory = mapper(buffer(kIODirectionInOut, SIZE, PAGE, pool="high"))
    seen = both_ways(bench, memory, data)
    runs = bench.witness(memory)
    attest(
        MASK,
        asked=f"{SIZE} bytes above 4 GiB, {bench.limits.address_bits} address bits",
        attested=f"{seen}; physical {runs[0].physical:#x}",
        kept=all(run.physical >= 4 << 30 for run in runs),
        reason=described(runs),
    )


@pytest.mark.promise(MASK)
def test_last_page_of_the_mask(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The highest bus address that is free: the device drives all bits of it."""
    iova = mapper.container.iova
    memory = mapper(Anonymous(PAGE), address=iova.last_page())
    seen = both_ways(bench, memory, data)
    attest(
        MASK,
        asked=f"the last page below 2**{bench.limits.address_bits}, or that the IOMMU translates",
        attested=seen,
        kept=True,
    )


@pytest.mark.promise(MASK)
def test_no_mapping_beyond_the_mask(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """With nothing left below it a mapping is refused, and not put where the device is blind."""
    iova = mapper.container.iova
    limits = bench.limits
    bits = min(limits.address_bits, iova.last_page().bit_length())
    memory = Anonymous(PAGE)
    with full(iova, bits):
        error = refusal(lambda: both_ways(bench, mapper(memory), data))
    beyond = refusal(lambda: both_ways(bench, mapper(memory, address=limits.end), data))
    seen = both_ways(bench, mapper(memory), data)
    codes = [each and each.code.name for each in (error, beyond)]
    attest(
        MASK,
        asked=f"all below 2**{bits} in use: no mapping; and none at {limits.end:#x}",
        attested=f"{codes[0]}, {codes[1]}; then {seen}",
        kept=codes == [IOReturn.kIOReturnNoMemory.name, IOReturn.kIOReturnBadArgument.name],
        reason=f"{error}; {beyond}",
    )


@pytest.mark.promise("FLR")
def test_reset_by_vfio(bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest) -> None:
    """Registers, records and buffer start anew; what is mapped stays so."""
    device = bench.device
    memory = mapper(Anonymous(SIZE))
    both_ways(bench, memory, data)
    device.write_register(Reg.DMA_OFFSET, 64)
    device.reset()
    device.bus_master = True
    registers = [device.read_register(reg) for reg in (Reg.DMA_OFFSET, Reg.DMA_LEN)]
    count = device.dma_count
    empty = bench.stored(PAGE) == bytes(PAGE)
    seen = both_ways(bench, memory, data)
    attest(
        "FLR",
        asked="by VFIO: as after power-on, what is mapped stays mapped",
        attested=f"registers {registers}, {count} DMAs; then {seen}",
        kept=registers == [0, 0] and count == 0 and empty,
        reason=f"registers {registers}, {count} DMAs, buffer empty: {empty}",
    )


@pytest.mark.any_device
@pytest.mark.promise("IOMMU limits")
def test_limit_of_mappings(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """The one too many is refused with the limit's name; one that is given back makes room."""
    limit = int(ENTRY_LIMIT.read_text())
    memory = Anonymous(PAGE)
    container = mapper.container
    with ExitStack() as stack:
        left = container.available()
        for _ in range(left or 0):
            last = stack.enter_context(container.map(memory.address, PAGE, read=True, write=False))
        error = refusal(lambda: container.map(memory.address, PAGE, read=True, write=False))
        last.close()
        seen = bench.device_reads(mapper(memory), data.take(PAGE))
    attest(
        "IOMMU limits",
        asked=f"{limit} mappings, and one more",
        attested=f"{left} were left; {error and error.code.name}; then {seen}",
        kept=error is not None
        and error.code is IOReturn.kIOReturnNoResources
        and f"dma_entry_limit {limit}" in error.reason,
        reason=f"{error}",
    )


@pytest.mark.any_device
@pytest.mark.promise("IOMMU limits")
def test_limit_of_locked_memory(
    bench: DmaChecker, mapper: Mapper, data: Patterns, attest: Attest
) -> None:
    """Root is let lock what it wants, so this process gives that right away for a moment."""
    memory = Anonymous(SIZE)
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with without_capability(CAP_IPC_LOCK):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (PAGE, before[1]))
        try:
            error = refusal(lambda: mapper(memory))
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
    seen = both_ways(bench, mapper(memory), data)
    attest(
        "IOMMU limits",
        asked=f"{SIZE} bytes where {PAGE} may be locked",
        attested=f"{error and error.code.name}; with the right to it, {seen}",
        kept=error is not None
        and error.code is IOReturn.kIOReturnCannotWire
        and f"RLIMIT_MEMLOCK {PAGE}" in error.reason,
        reason=f"{error}",
    )
