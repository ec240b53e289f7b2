# SPDX-License-Identifier: Apache-2.0
"""The protection unit: DMA with a grant moves bytes, and DMA without one moves nothing."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import (
    DmaDirection,
    DmaReason,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing, held_dma
from dma_rehearsal.guest.drivers.platform.protection_unit import ProtectionFault
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, Guarded, MakeBuffer, Patterns, difference
from dma_rehearsal.guest.testkit.config_space import flr
from dma_rehearsal.guest.testkit.guarded import (
    IN,
    IN_OUT,
    LINE,
    OUT,
    check_untouched,
    edges,
    prepare,
)

pytestmark = pytest.mark.any_device

LENGTH, STEP = 4096, 1024
DESCRIPTOR = RingDescriptor.STRUCT.size
PROMISE = "protection unit"
OUTSIDE, PAST_END, DIRECTION = (
    DmaReason.PROTECTION_OUTSIDE,
    DmaReason.PROTECTION_PAST_END,
    DmaReason.PROTECTION_DIRECTION,
)
both_ways = pytest.mark.parametrize("write", [False, True], ids=["read", "write"])


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("size", [1, 65, 4096, 70001])
def test_within_a_grant(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    """All of it moves, whole and in odd pieces, and no fault is left."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, size)
    guarded.grant(memory.getPhysicalAddress(), size, IN_OUT)
    before = guarded.unit.fault_count
    bench.device_reads(memory, data.take(size))
    parts = data.cut(size, bench.device.buffer_size)
    seen = bench.device_writes(memory, data.take(size), parts)
    guarded.recorded("granted DMA", before, [])
    attest(PROMISE, asked=f"{size} bytes within a grant", attested=seen, kept=True)


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise(PROMISE)
@both_ways
def test_outside_every_grant(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool
) -> None:
    """Up to the grant's first byte, across it, and from its end on."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, 3 * PAGE, PAGE)
    address = memory.getPhysicalAddress()
    grant = guarded.grant(address + PAGE, PAGE, IN_OUT)
    inside = data.take(3 * PAGE)
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        tries = (
            (address + PAGE - LINE, 1),
            (address + PAGE - LINE, LINE),
            (address + PAGE - 1, 1),
            (address + PAGE - 1, 2),  # from outside into the grant
            (address + PAGE - 1, PAGE + 2),  # all around it
            (address + 2 * PAGE, 1),
            (address + 2 * PAGE, PAGE),
            (address + 2 * PAGE + LINE, 1),
        )
        each = [(start, length, start) for start, length in tries]
        fault = guarded.denied_each(each, write=write, reason=OUTSIDE, nearest=grant)
        check_untouched(bench, view, inside, in_device)
    attest(
        PROMISE,
        asked=f"device {'writes' if write else 'reads'} outside a grant of {PAGE} bytes",
        attested=f"fault {fault.sequence}: {fault.reason.name}, the grant is at {grant.address:#x}",
        kept=True,
        evidence="refusal",
    )


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.promise(PROMISE)
@both_ways
@pytest.mark.parametrize("size", [1, 63, 64, 65, 4096])
def test_across_the_end(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool, size: int
) -> None:
    """From each byte of the first and last line to one byte behind the end: not even a prefix."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, size + LINE)
    address = memory.getPhysicalAddress()
    end = address + size
    grant = guarded.grant(address, size, IN_OUT)
    inside = data.take(size + LINE)
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        starts = (start for places in edges(address, size) for start in places)
        tries = [(start, end + 1 - start, end) for start in starts]
        fault = guarded.denied_each(tries, write=write, reason=PAST_END, nearest=grant)
        guarded.denied(end, 1, write=write, reason=OUTSIDE, byte=end, nearest=grant)
        check_untouched(bench, view, inside, in_device)
    seen = bench.dma(address, size, write_memory=write)
    attest(
        PROMISE,
        asked=f"device {'writes' if write else 'reads'} one byte past {size}",
        attested=f"fault {fault.sequence}: {fault.reason.name}; up to the end: {seen.moved} bytes",
        kept=True,
        evidence="refusal",
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
def test_overlapping_grants(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """A byte has the permissions of all grants on it, and loses those of one that goes."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, 3 * PAGE, PAGE)
    address = memory.getPhysicalAddress()
    first = guarded.grant(address, 2 * PAGE, OUT)
    second = guarded.grant(address + PAGE, 2 * PAGE, IN)
    again = guarded.grant(address, 2 * PAGE, OUT)
    inside = data.take(3 * PAGE)
    middle = address + PAGE
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        guarded.denied(
            address, 3 * PAGE, write=False, reason=DIRECTION, byte=address + 2 * PAGE,
            nearest=second,
        )  # fmt: skip
        guarded.denied(address, 3 * PAGE, write=True, reason=DIRECTION, byte=address, nearest=again)
        check_untouched(bench, view, inside, in_device)
        for write in False, True:
            bench.dma(middle, PAGE, write_memory=write)
        guarded.unit.withdraw(first.id)
        bench.dma(address, 2 * PAGE, write_memory=False)
        guarded.unit.withdraw(again.id)
        fault = guarded.denied(
            middle, PAGE, write=False, reason=DIRECTION, byte=middle, nearest=second
        )
        seen = bench.dma(middle, 2 * PAGE, write_memory=True)
    attest(
        PROMISE,
        asked="two Out grants on one In grant, withdrawn one after the other",
        attested=f"then {fault.reason.name} for a read, {seen.moved} bytes written",
        kept=True,
        evidence="refusal",
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
@both_ways
def test_adjacent_grants(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool
) -> None:
    """Together they cover a transfer; with a hole of one of them it is denied whole."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, LENGTH)
    position, grants = memory.getPhysicalAddress(), []
    for index, part in enumerate(data.cut(LENGTH, 777)):
        # The other direction of every other one makes no difference.
        right = IN if write else OUT
        grants.append(guarded.grant(position, part, IN_OUT if index % 2 else right))
        position += part
    address, hole = grants[0].address, grants[len(grants) // 2]
    inside = data.take(LENGTH)
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        guarded.unit.withdraw(hole.id)
        fault = guarded.denied(
            address, LENGTH, write=write, reason=PAST_END, byte=hole.address,
            nearest=grants[len(grants) // 2 - 1],
        )  # fmt: skip
        check_untouched(bench, view, inside, in_device)
    guarded.grant(hole.address, hole.length, IN if write else OUT)
    if write:
        bench.load(in_device)
        bench.dma(address, LENGTH, write_memory=True)
        with memory.view() as view:
            wrong = difference(in_device, bytes(view))
    else:
        bench.device_sees(memory, inside)
        wrong = ""
    attest(
        PROMISE,
        asked=f"{LENGTH} bytes in {len(grants)} adjacent grants, one away and back",
        attested=f"{fault.reason.name} at {fault.byte:#x}; then {LENGTH} bytes",
        kept=not wrong,
        reason=wrong,
        evidence="refusal",
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
@both_ways
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_revoked_in_flight(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest, write: bool, steps: int
) -> None:
    """Each step is checked when it moves: moved bytes stay, and the next step ends the DMA."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, LENGTH)
    address, moved = memory.getPhysicalAddress(), steps * STEP
    grant = guarded.grant(address, LENGTH, IN if write else OUT)
    other = guarded.grant(address, LENGTH, OUT if write else IN)
    outside = data.take(LENGTH)
    with memory.view() as view:
        inside = prepare(bench, view, outside)
        before = guarded.unit.fault_count
        with held_dma(bench.device, address, LENGTH, write_memory=write) as dma:
            for _ in range(steps):
                dma.step(STEP)
            in_flight = dma.in_flight
            guarded.unit.withdraw(grant.id)
            with bench.device.expects(DIRECTION, count=1):
                dma.step(STEP)
            over = not dma.in_flight
            guarded.grant(address, LENGTH, IN_OUT)
            dma.step(LENGTH)
            reason, seen = dma.abort()
        source, target = (inside, outside) if write else (outside, inside)
        due = source[:moved] + target[moved:]
        wrong = difference(due, bytes(view) if write else bench.stored(LENGTH))
    at, way = address + moved, DmaDirection(write)
    # The step, not the whole DMA, is what was on the bus.
    step = ProtectionFault(before + 1, at, STEP, way, DIRECTION, at, other, guarded.function)
    guarded.recorded(f"withdrawn after {moved} bytes", before, [step])
    attest(
        PROMISE,
        asked=f"the grant is withdrawn after {moved} bytes",
        attested=f"{reason.name} after {seen} bytes",
        kept=in_flight and over and (reason, seen) == (DIRECTION, moved) and not wrong,
        reason=wrong or f"in flight before: {in_flight}, over: {over}",
        evidence="refusal",
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
def test_ring(guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """Descriptors are DMA as well; of a chain with one segment not granted, none moves."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, 3 * LINE)
    table = buffer(kIODirectionInOut, 3 * DESCRIPTOR)
    address, descriptors = memory.getPhysicalAddress(), table.getPhysicalAddress()
    grant = guarded.grant(address, 2 * LINE, IN)
    table_grant = guarded.grant(descriptors, 4 * DESCRIPTOR, IN)
    inside, last = data.take(3 * LINE), address + 2 * LINE
    with memory.view() as view, table.view() as slots:
        in_device = prepare(bench, view, inside)
        for index in range(3):
            flags = RingFlag.WRITE_MEMORY | (RingFlag.CHAIN if index < 2 else RingFlag(0))
            descriptor = RingDescriptor(address + index * LINE, LINE, index * LINE, flags)
            slots[index * DESCRIPTOR : (index + 1) * DESCRIPTOR] = descriptor.pack()
        with DescriptorRing(bench.device, slots, descriptors, 4) as ring:
            before = guarded.unit.fault_count
            with bench.device.expects(DIRECTION, count=1):
                statuses = [ring.doorbell(3)]
            guarded.grant(descriptors, 4 * DESCRIPTOR, OUT)
            with bench.device.expects(OUTSIDE, count=1):
                statuses.append(ring.doorbell(3))
            halted = ring.refused, ring.completion
        record = bench.device.record(bench.device.dma_count)
        check_untouched(bench, view, inside, in_device)
    due = [
        ProtectionFault(
            *(before + 1, descriptors, 3 * DESCRIPTOR, DmaDirection.READ_MEMORY, DIRECTION),
            *(descriptors, table_grant, guarded.function),
        ),
        ProtectionFault(
            *(before + 2, last, LINE, DmaDirection.WRITE_MEMORY, OUTSIDE),
            *(last, grant, guarded.function),
        ),
    ]
    guarded.recorded("descriptors, then one segment of three, are not granted", before, due)
    attest(
        PROMISE,
        asked="a ring that the device may not read, then a chain with one segment too many",
        attested=f"{statuses[0].name}; {record.reason.name}, {record.moved} bytes moved",
        kept=statuses == [RingStatus.UNREACHABLE, RingStatus.REFUSED]
        and halted == ((0, OUTSIDE), 0)
        and (record.reason, record.moved, record.segments) == (OUTSIDE, 0, 3),
        evidence="refusal",
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise(PROMISE)
def test_off_and_on_again(
    guarded: Guarded, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Off, everything passes; the grants are the same when it is on again. An FLR changes none."""
    bench, memory = guarded.bench, buffer(kIODirectionInOut, PAGE)
    address = memory.getPhysicalAddress()
    grant = guarded.grant(address, PAGE, OUT)
    count = guarded.unit.grant_count
    guarded.unit.enabled = False
    seen = bench.device_writes(memory, data.take(PAGE))
    guarded.unit.enabled = True
    flr(bench.device.pci)
    bench.device.bus_master = True
    fault = guarded.denied(address, PAGE, write=True, reason=DIRECTION, byte=address, nearest=grant)
    right = bench.dma(address, PAGE, write_memory=False)
    attest(
        PROMISE,
        asked="off, then on with the same grants, then an FLR of the device",
        attested=f"off: {seen}; on: {fault.reason.name}, {right.moved} bytes the other way",
        kept=guarded.unit.grant_count == count,
        reason=f"{guarded.unit.grant_count} grants of {count}",
        evidence="refusal",
    )
