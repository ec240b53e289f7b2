# SPDX-License-Identifier: Apache-2.0
"""Memory of several parts: the first, the last, and what lies between, is each done, and in order.

A driver that leaves out one part of many is right with all that has a single one.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from dma_rehearsal.device.layout import (
    DmaReason,
    Ext,
    MemoryType,
    RingDescriptor,
    RingFlag,
    WitnessStatus,
)
from dma_rehearsal.guest.drivers.exerciser_features import constrained
from dma_rehearsal.guest.iobuffer import (
    IODMACommand,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMapInhibitCache,
    kIOMapWriteCombineCache,
)
from dma_rehearsal.guest.iobuffer.base.options import IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors.guard_pages import IOGuardPageMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.multi_descriptor import IOMultiMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma.command import MappingOptions, Specification
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    NonCoherent,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.interrupts import WAIT_S, settle_msix
from dma_rehearsal.guest.testkit.noncoherent import LINE
from dma_rehearsal.guest.testkit.transfers import DESCRIPTOR, open_ring, run_ring

BITS = 32
NARROW = Specification.of_device(address_bits=BITS)
LENGTH = 4 * LINE
LISTED = 300  # segments: more than the device's trace tells of one list


@pytest.mark.unlimited("addresses", "segments")
@pytest.mark.promise("IODMACommand")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_each_part_that_bounces(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    """Three parts out of the device's reach, between two within it: each bounces by itself."""
    pools = ["high", "main", "high", "main", "high"]
    entries = [buffer(kIODirectionInOut, PAGE, PAGE, pool=pool) for pool in pools]
    memory = IOMultiMemoryDescriptor.withDescriptors(entries, kIODirectionInOut)
    content = data.take(len(pools) * PAGE)
    memory.writeBytes(0, inverted(content) if write_memory else content)
    parts = [each.readBytes(0, PAGE) for each in entries]
    wrong = difference(memory.readBytes(0, len(content)), b"".join(parts))
    # The device's own buffer is filled and read through memory anywhere.
    bench.load(content if write_memory else inverted(content))
    with memory:
        with constrained(bench.device, {Ext.ADDRESS_BITS: BITS}):
            memory.prepare()
            with IODMACommand(NARROW) as command:
                command.setMemoryDescriptor(memory)
                places, bounced = command.genIOVMSegments(0, 16)[0], command.bounced
                offset = 0
                for address, length in places:
                    bench.dma(address, length, write_memory=write_memory, offset=offset)
                    offset += length
            memory.complete()
        if not write_memory:
            wrong = wrong or difference(content, bench.stored(len(content)))
        wrong = wrong or difference(content, memory.readBytes(0, len(content)))
    attest(
        "IODMACommand",
        asked="3 of 5 pages out of reach",
        attested=f"{len(places)} segments, {bounced} bytes bounced",
        kept=not wrong and bounced == 3 * PAGE,
        reason=wrong,
    )


@pytest.mark.promise("constraints")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_address_bits_are_for_the_last_byte(
    bench: DmaChecker, attest: Attest, write_memory: bool
) -> None:
    """A DMA that begins within the device's reach and ends beyond; up to the end it is within.

    Without a grant, DMA within the limit is denied, too, and touches nothing.
    """
    # Buffers lie up to the device's limit, and up to 28 bits, where a carve-out ends.
    bits = min(27, bench.limits.address_bits - 1)
    step = max(64, bench.limits.step)
    end = 1 << bits
    seen = []
    with constrained(bench.device, {Ext.ADDRESS_BITS: bits}):
        for address, length, reason in (
            (end - 2 * step, 2 * step, DmaReason.PROTECTION_OUTSIDE),
            (end - step, 2 * step, DmaReason.ADDRESS_BITS),
            (end, step, DmaReason.ADDRESS_BITS),
        ):
            # Address bits come before a boundary that is crossed there, too.
            own = (
                None
                if reason is DmaReason.ADDRESS_BITS
                else bench.limits.refusal((address, length))
            )
            due = own or reason
            record = bench.refused_dma(due, address, length, write_memory=write_memory)
            seen.append((due, record.reason, record.moved))
    attest(
        "constraints",
        asked=f"{bits} address bits: up to the last byte, across it, beyond",
        attested=", ".join(reason.name for _, reason, _ in seen),
        kept=all(due is reason and count == 0 for due, reason, count in seen),
        evidence="refusal",
    )


@pytest.mark.promise("setDirection")
@pytest.mark.parametrize(
    ("before", "after"),
    [(kIODirectionOut, kIODirectionIn), (kIODirectionIn, kIODirectionOut)],
    ids=["Out to In", "In to Out"],
)
def test_a_direction_that_is_turned_leaves_nothing_of_the_one_before(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    before: IOOptions,
    after: IOOptions,
) -> None:
    memory, turned = buffer(before, PAGE), after == kIODirectionIn
    size = bench.one_dma(PAGE)
    content = data.take(size)
    first, second = bench.device_reads, bench.device_writes
    if not turned:
        first, second = second, first
    said = [str(first(memory, content))]
    memory.setDirection(after)
    said.append(str(second(memory, inverted(content))))
    late = bench.refused_dma(
        DmaReason.PROTECTION_DIRECTION, memory.getPhysicalAddress(), size, write_memory=not turned
    )
    wrong = difference(inverted(content), memory.readBytes(0, size))
    attest(
        "setDirection",
        asked=f"from {before} to {after}",
        attested=f"{'; '.join(said)}; the other way: {late.reason.name}",
        kept=not wrong and late.reason is DmaReason.PROTECTION_DIRECTION and late.moved == 0,
        reason=wrong,
        evidence="refusal",
    )


CHAIN, WRITE, INTERRUPT = RingFlag.CHAIN, RingFlag.WRITE_MEMORY, RingFlag.INTERRUPT
_NO = RingFlag(0)


@pytest.mark.promise("descriptor ring")
@pytest.mark.parametrize(
    ("flags", "due"),
    [
        ([INTERRUPT, _NO, _NO], 1),
        ([_NO, INTERRUPT, _NO], 1),
        pytest.param([CHAIN | INTERRUPT, CHAIN, _NO], 1, marks=pytest.mark.unlimited),
        ([_NO, _NO, _NO], 0),
    ],
    ids=["first transfer", "second transfer", "first descriptor", "none"],
)
def test_whichever_descriptor_asks_for_the_interrupt(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    flags: list[RingFlag],
    due: int,
) -> None:
    """One of a doorbell's descriptors asks, and not the last: the interrupt comes, and once."""
    step = max(8, bench.limits.step)
    memory, content = buffer(kIODirectionIn, len(flags) * PAGE, PAGE), data.take(PAGE)
    bench.load(content)
    base, vector = memory.getPhysicalAddress(), min(5, bench.device.vectors - 1)
    with (
        open_ring(bench, buffer(kIODirectionInOut, 32 * DESCRIPTOR), 32, vector=vector) as ring,
        bench.device.eventfd(vector) as interrupt,
    ):
        for index, flag in enumerate(flags):
            ring.put(index, RingDescriptor(base + index * PAGE, step, 0, flag | WRITE))
        run_ring(ring, len(flags))
        # Two messages of one vector may come as one, so the fence is another's.
        count = interrupt.wait(WAIT_S) if due else 0
        with bench.device.eventfd(0) as fence:
            settle_msix(bench.device, fence)
        count += interrupt.wait(0)
    wrong = difference(content[:step], memory.readBytes(0, step))
    attest(
        "descriptor ring",
        asked=f"{', '.join(flag.name or 'no flag' for flag in flags)}: {due} interrupts",
        attested=f"{count} interrupts",
        kept=count == due and not wrong,
        reason=wrong,
    )


@pytest.mark.unlimited("segments", "alignment")
@pytest.mark.promise("descriptor ring")
def test_a_list_that_is_longer_than_the_trace_tells(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Every other 8 bytes of a buffer, in one transfer: each is written, and none between."""
    memory = buffer(kIODirectionIn, LISTED * 16, PAGE)
    content = data.take(LISTED * 8)
    before = inverted(bytes(LISTED * 16))
    memory.writeBytes(0, before)
    bench.load(content)
    base = memory.getPhysicalAddress()
    with open_ring(bench, buffer(kIODirectionInOut, 512 * DESCRIPTOR), 512) as ring:
        for index in range(LISTED):
            flags = WRITE | (CHAIN if index < LISTED - 1 else _NO)
            ring.put(index, RingDescriptor(base + index * 16, 8, index * 8, flags))
        run_ring(ring, LISTED)
        record = bench.device.record(bench.device.dma_count)
    due = bytearray(before)
    for index in range(LISTED):
        due[index * 16 : index * 16 + 8] = content[index * 8 : index * 8 + 8]
    wrong = difference(bytes(due), memory.readBytes(0, LISTED * 16))
    attest(
        "descriptor ring",
        asked=f"{LISTED} segments in one transfer",
        attested=f"{record.moved} bytes in {record.segments} segments",
        kept=not wrong and (record.moved, record.segments) == (LISTED * 8, LISTED),
        reason=wrong,
    )
    attest.direction(memory)


@pytest.mark.any_device
@pytest.mark.promise("cache maintenance")
@pytest.mark.parametrize("by_command", [False, True], ids=["descriptor", "command"])
def test_each_entry_is_synced(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, by_command: bool
) -> None:
    """Three buffers as one: the device reads what the CPU stored in each, and the other way."""
    entries = [noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, LENGTH) for _ in "123"]
    memory = IOMultiMemoryDescriptor.withDescriptors(entries, kIODirectionInOut)
    sent, received = [data.take(LENGTH) for _ in entries], [data.take(LENGTH) for _ in entries]
    with ExitStack() as stack:
        stack.enter_context(memory)
        memory.prepare()
        stack.callback(memory.complete)
        command = stack.enter_context(
            IODMACommand(Specification(mapping=MappingOptions.kNonCoherent))
        )
        memory.writeBytes(0, b"".join(sent))
        if by_command:
            command.setMemoryDescriptor(memory)
        else:
            memory.sync_for_device()
        seen = [noncoherent.reads(each, 0, LENGTH) for each in entries]
        for each, content in zip(entries, received, strict=True):
            noncoherent.writes(each, 0, content)
        if by_command:
            command.clearMemoryDescriptor()
        else:
            memory.sync_for_cpu()
        loaded = [each.readBytes(0, LENGTH) for each in entries]
    attest(
        "cache maintenance",
        asked="three entries of one descriptor, each way",
        attested=f"{sum(map(len, seen))} bytes read, {sum(map(len, loaded))} loaded",
        kept=seen == sent and loaded == received,
        reason=f"device: {difference(b''.join(sent), b''.join(seen))}; "
        f"CPU: {difference(b''.join(received), b''.join(loaded))}",
        evidence="cache",
    )


@pytest.mark.unlimited("addresses", "segments")
@pytest.mark.promise("cache maintenance")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_a_bounce_buffer_is_maintained_in_order(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    """prepare() copies, then cleans; complete() invalidates, then copies back."""
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, 2 * LENGTH)
    content = data.take(LENGTH)
    memory.writeBytes(0, bytes(2 * LENGTH) if write_memory else bytes(4) + content + bytes(8))
    misaligned = Specification(
        mapping=MappingOptions.kNonCoherent, alignment=LINE, length_alignment=4
    )
    with IODMACommand(misaligned) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        command.prepare(4, LENGTH)
        bounce = command.getIOMemoryDescriptor()
        if bounce is None or bounce is memory:
            raise CheckFailed("memory that is misaligned, and no bounce buffer")
        if write_memory:
            noncoherent.writes(bounce, 0, content)
        else:
            wrong = difference(content, noncoherent.reads(bounce, 0, LENGTH))
        command.complete()
        if write_memory:
            wrong = difference(content, memory.readBytes(4, LENGTH))
    attest(
        "cache maintenance",
        asked="prepare(), DMA without a snoop, complete(), through a bounce buffer",
        attested=f"{LENGTH} bytes at {LINE} of a line",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


@pytest.mark.any_device
@pytest.mark.promise("IOMultiMemoryDescriptor")
def test_neighbouring_pages_of_different_modes(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """One mapping of three kinds: a walk over all finds each page's own type and place.

    With a page between them that nobody can reach, it ends there, and says what came before.
    """
    kinds = {
        MemoryType.UC: kIOMapInhibitCache,
        MemoryType.WB: kIOMapCopybackCache,
        MemoryType.WC: kIOMapWriteCombineCache,
    }
    entries = [buffer(kIODirectionInOut | option, PAGE, PAGE) for option in kinds.values()]
    guard = IOGuardPageMemoryDescriptor.withSize(PAGE)
    memory = IOMultiMemoryDescriptor.withDescriptors(entries, kIODirectionInOut)
    apart = IOMultiMemoryDescriptor.withDescriptors(
        [entries[0], guard, *entries[1:]], kIODirectionInOut
    )
    size = bench.one_dma(PAGE)
    for each in entries:
        bench.device_writes(each, data.take(size))
    due = [
        (each.getPhysicalAddress(), PAGE, kind) for each, kind in zip(entries, kinds, strict=True)
    ]
    with memory, apart, memory.map() as mapped, apart.map() as gapped:
        runs = bench.witness_range(mapped.getVirtualAddress(), 3 * PAGE)
        root = bench.driver.query(gapped.getVirtualAddress())
        report = bench.platform.witness(
            root.root, gapped.getVirtualAddress(), 4 * PAGE, root.levels
        )
        hole = gapped.getVirtualAddress() + PAGE
        behind = bench.witness_range(hole + PAGE, 2 * PAGE)
    found = [(run.physical, run.length, run.effective) for run in runs]
    before = [(run.physical, run.length, run.effective) for run in report.runs]
    after = [(run.physical, run.length, run.effective) for run in behind]
    attest(
        "IOMultiMemoryDescriptor",
        asked="UC, WB and WC side by side, and a guard page behind the first",
        attested=f"{', '.join(kind.name for _, _, kind in found)}; {report.status.name}",
        kept=found == due
        and (report.status, report.fault_va) == (WitnessStatus.NOT_PRESENT, hole)
        and before == due[:1]
        and after == due[1:],
        reason=f"walked {found}, {before}, {after}; due {due}",
        evidence="walk",
    )


@pytest.mark.any_device
@pytest.mark.promise("capacity")
def test_a_length_below_the_capacity_is_what_counts(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Reads and writes end at the length; what lies behind is not told, nor changed."""
    size = bench.fits(256)
    memory, content = buffer(kIODirectionInOut, size), data.take(size)
    seen = bench.device_writes(memory, content)
    memory.setLength(100)
    found = [
        *(memory.readBytes(0, 100), memory.readBytes(0, 101), memory.readBytes(100, 1)),
        bytes(memory.view()),
    ]
    stored = [
        memory.writeBytes(100, b"x"),
        memory.writeBytes(99, b"xy"),
        memory.writeBytes(99, b"x"),
    ]
    part = memory.getPhysicalSegment(60), memory.getPhysicalSegment(100), memory.segments()
    memory.setLength(size)
    wrong = difference(content[:99] + b"x" + content[100:], memory.readBytes(0, size))
    start = memory.getPhysicalAddress()
    attest(
        "capacity",
        asked=f"a length of 100 in a capacity of {size}",
        attested=f"{[len(each) for each in found]} bytes read, {stored} written; {seen}",
        kept=found == [content[:100], b"", b"", content[:100]]
        and stored == [0, 0, 1]
        and part == ((start + 60, 40), (0, 0), [(start, 100)])
        and not wrong,
        reason=f"{wrong}; segments {part}",
    )
