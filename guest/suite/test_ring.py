# SPDX-License-Identifier: Apache-2.0
"""The descriptor ring: scatter-gather, thousands of descriptors, and rings that mean harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dma_rehearsal.device.layout import DmaReason, RingDescriptor, RingFlag, RingStatus
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, kIODirectionInOut
from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.interrupts import WAIT_S
from dma_rehearsal.guest.testkit.transfers import DESCRIPTOR, open_ring, run_ring

AGAIN = 10  # descriptors
REWRITTEN_MIN, REWRITTEN_MAX = 100, 4000  # descriptors
CHAIN, WRITE, INTERRUPT = RingFlag.CHAIN, RingFlag.WRITE_MEMORY, RingFlag.INTERRUPT


@pytest.mark.promise("descriptor ring")
@pytest.mark.parametrize("segments", [1, 2, 7, 64])
def test_scatter_and_gather(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, segments: int
) -> None:
    """A transfer in pieces from places in another order, then the way back; MSI-X at its end."""
    lengths = bench.scattered(segments)
    segments = len(lengths)
    pieces = [data.take(length) for length in lengths]
    places = [buffer(kIODirectionInOut, length, PAGE) for length in lengths]
    for place, piece in zip(places, pieces, strict=True):
        with place.view() as view:
            view[:] = piece
    vector = min(5, bench.device.vectors - 1)
    with (
        open_ring(bench, buffer(kIODirectionInOut, 256 * DESCRIPTOR), 256, vector=vector) as ring,
        bench.device.eventfd(vector) as interrupt,
    ):
        records = []
        for direction in RingFlag(0), WRITE:
            offset, start = 0, ring.completion
            for index, place in enumerate(places):
                last = index == segments - 1
                flags = direction | (INTERRUPT if last else CHAIN)
                size = place.getLength()
                descriptor = RingDescriptor(place.getPhysicalAddress(), size, offset, flags)
                ring.put(start + index, descriptor)
                offset += size
            run_ring(ring, start + segments)
            if not interrupt.wait(WAIT_S):
                raise CheckFailed("no interrupt at the transfer's end")
            records.append(bench.device.record(bench.device.dma_count))
            if not direction:
                gathered = bench.stored(offset)
                bench.load(gathered[::-1])
    wrong = difference(b"".join(pieces), gathered)
    back, start = gathered[::-1], 0
    for place in places:
        with place.view() as view:
            wrong = wrong or difference(back[start : start + len(view)], bytes(view))
            start += len(view)
    attest(
        "descriptor ring",
        asked=f"{offset} bytes in {segments} segments, each way",
        attested=", ".join(f"{each.moved} bytes in {each.segments}" for each in records),
        kept=not wrong and all(each.ok and each.segments == segments for each in records),
        reason=wrong,
    )


@pytest.mark.promise("descriptor ring")
def test_thousands_of_descriptors(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The index wraps; each descriptor moves its bytes, and none is run twice."""
    size, each = 2048, max(8, bench.limits.step)
    memory = buffer(kIODirectionInOut, size * each, PAGE)
    base = memory.getPhysicalAddress()
    window = bench.device.buffer_size
    content = data.take(min(window, size * each))
    bench.load(content)
    with open_ring(bench, buffer(kIODirectionInOut, size * DESCRIPTOR), size) as ring:
        for index in range(size):
            at = index * each
            ring.put(index, RingDescriptor(base + at, each, at % window, WRITE))
        before = ring.transfers
        run_ring(ring, size - 1)
        run_ring(ring, AGAIN)
        run_ring(ring, AGAIN)
        count = ring.transfers - before
    with memory.view() as view:
        wrong = difference(content * (size * each // len(content)), bytes(view))
    attest(
        "descriptor ring",
        asked=f"{size} descriptors, then {AGAIN} once more",
        attested=f"{count} transfers",
        kept=count == size + AGAIN and not wrong,
        reason=wrong,
    )


@pytest.mark.unprotected
@pytest.mark.promise("descriptor ring")
def test_bad_descriptors_are_refused_whole(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Each with its reason and its index. It halts the ring, so what comes behind it is not run.

    The last descriptor asks for the interrupt: whoever waits for it wakes. Started again, the ring
    runs what is good.
    """
    memory = buffer(kIODirectionInOut, 4096, PAGE)
    base = memory.getPhysicalAddress()
    inside, outside = data.take(4096), data.take(4096)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    window = bench.device.buffer_size

    def limited(reason: DmaReason, *ranges: tuple[int, int]) -> DmaReason:
        return bench.limits.refusal(*ranges) or reason

    bad = [
        ([RingDescriptor(base, 4, 0, 1 << 31)], DmaReason.BAD_DESCRIPTOR),
        ([RingDescriptor(0, 0, 0, 0)], DmaReason.BAD_DESCRIPTOR),  # rung before it was written
        (
            [RingDescriptor(base, 4, 0, CHAIN | WRITE), RingDescriptor(base, 4, 0, 0)],
            DmaReason.BAD_DESCRIPTOR,
        ),
        ([RingDescriptor(base, 2, window - 1, WRITE)], DmaReason.BUFFER_RANGE),
        ([RingDescriptor(base, 0xFFFF_FFFF, 1, WRITE)], DmaReason.TRANSFER_SIZE),
        (
            [RingDescriptor((1 << 64) - 4, 8, 0, WRITE)],
            limited(DmaReason.ADDRESS_WRAP, ((1 << 64) - 4, 8)),
        ),
        (
            [RingDescriptor(base, 8, 0, CHAIN | WRITE), RingDescriptor(1 << 63, 8, 0, WRITE)],
            limited(DmaReason.UNMAPPED, (base, 8), (1 << 63, 8)),
        ),
        ([RingDescriptor(base, 4, 0, CHAIN | WRITE)], DmaReason.UNFINISHED_CHAIN),
    ]
    length = max(8, bench.limits.step)
    good = RingDescriptor(base, length, 0, 0)
    seen = []
    vector = min(5, bench.device.vectors - 1)
    with (
        open_ring(bench, buffer(kIODirectionInOut, 32 * DESCRIPTOR), 32, vector=vector) as ring,
        bench.device.eventfd(vector) as interrupt,
    ):
        for chain, reason in bad:
            behind = [] if chain[-1].flags & CHAIN else [RingDescriptor(base, length, 0, INTERRUPT)]
            for index, descriptor in enumerate([good, *chain, *behind]):
                ring.put(index, descriptor)
            tail = 1 + len(chain) + len(behind)
            with bench.device.expects(reason, count=1):
                statuses = ring.doorbell(tail), ring.doorbell(tail)
            if behind and not interrupt.wait(WAIT_S):
                raise CheckFailed(f"{reason.name}: no interrupt, and its driver sleeps on")
            record = bench.device.record(bench.device.dma_count)
            halted = statuses == (RingStatus.REFUSED,) * 2 and ring.refused == (1, record.reason)
            seen.append((record.reason, record.moved, halted and ring.completion == 1))
            ring.restart()
        ring.put(0, good)
        run_ring(ring, 1)
        started = ring.refused is None
    with memory.view() as view:
        wrong = difference(outside, bytes(view))
    attest(
        "descriptor ring",
        asked="bad descriptors: refused, and the ring halts",
        attested=", ".join(why.name for why, _, _ in seen),
        kept=seen == [(reason, 0, True) for _, reason in bad] and started and not wrong,
        reason=wrong or "a reason, RING_STATUS, RING_REFUSED or the completion index",
        evidence="refusal",
    )


@pytest.mark.promise("descriptor ring")
def test_ring_that_is_not_there(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """In no memory, past the last address, of a size or with an index that cannot be."""
    memory = buffer(kIODirectionInOut, 32 * DESCRIPTOR)
    own = bench.device.pci.bar_address(1)
    cases = [
        (0x8000_0000, 16, 1, RingStatus.UNREACHABLE),
        ((1 << 64) - DESCRIPTOR, 16, 2, RingStatus.UNREACHABLE),
        (own, 16, 1, RingStatus.UNREACHABLE),
        (memory.getPhysicalAddress(), 0, 0, RingStatus.BAD_SIZE),
        (memory.getPhysicalAddress(), 1, 0, RingStatus.BAD_SIZE),
        (memory.getPhysicalAddress(), 0xFFFF_FFFF, 1, RingStatus.BAD_SIZE),
        (memory.getPhysicalAddress(), 16, 16, RingStatus.BAD_INDEX),
        (memory.getPhysicalAddress(), 16, 0xFFFF_FFFF, RingStatus.BAD_INDEX),
    ]
    seen = []
    # The first of a device without limits; the others by what it cannot drive, or is itself.
    refused = (
        *(DmaReason.PROTECTION_OUTSIDE, DmaReason.ADDRESS_WRAP, DmaReason.OWN_BAR),
        *(DmaReason.ADDRESS_BITS, DmaReason.BOUNDARY),
    )
    with memory.view() as view, bench.device.expects(*refused):
        for address, size, tail, _ in cases:
            with DescriptorRing(bench.device, view, address, size) as ring:
                seen.append((ring.doorbell(tail), ring.completion))
    attest(
        "descriptor ring",
        asked="rings and indexes that cannot be: refused",
        attested=", ".join(status.name for status, _ in seen),
        kept=seen == [(status, 0) for _, _, _, status in cases],
        evidence="refusal",
    )


@pytest.mark.unlimited("alignment")
@pytest.mark.promise("descriptor ring")
def test_ring_that_points_at_itself(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """A transfer overwrites descriptors that were asked for; the device runs its copy of them."""
    target, victim = buffer(kIODirectionInOut, 64), buffer(kIODirectionInOut, 64)
    content, untouched = data.take(64), data.take(64)
    with victim.view() as view:
        view[:] = untouched
    evil = RingDescriptor(victim.getPhysicalAddress(), 64, 0, WRITE).pack()
    bench.load(content + evil)
    ring_memory = buffer(kIODirectionInOut, 8 * DESCRIPTOR)
    second = ring_memory.getPhysicalAddress() + DESCRIPTOR
    with open_ring(bench, ring_memory, 8) as ring:
        ring.put(0, RingDescriptor(second, DESCRIPTOR, 64, WRITE))
        ring.put(1, RingDescriptor(target.getPhysicalAddress(), 64, 0, WRITE))
        run_ring(ring, 2)
    with target.view() as view, victim.view() as other:
        wrong = difference(content, bytes(view)) or difference(untouched, bytes(other))
    record = bench.device.record(bench.device.dma_count)
    attest(
        "descriptor ring",
        asked="a ring that is written to while it runs",
        attested=f"{record.moved} bytes at {record.address:#x}",
        kept=not wrong and record.address == target.getPhysicalAddress(),
        reason=wrong,
    )


@contextmanager
def rewriter(
    bench: DmaChecker, memory: IOBufferMemoryDescriptor, offset: int, first: bytes, second: bytes
) -> Iterator[None]:
    """Have a process on another CPU write two values in turn, as fast as it can, until the end.

    A fork inherits no buffer, so it maps the memory itself.
    """
    address, mode = memory.getPhysicalAddress() + offset, memory.cache_mode
    start, end = address % PAGE, address % PAGE + len(first)
    running, started = os.pipe()
    other = processors.current() + 1
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            processors.place(other)
            view = bench.driver.map(address - start, PAGE, mode).view()
            view[start:end] = second
            os.write(started, b"!")
            while True:
                view[start:end] = first
                view[start:end] = second
        finally:
            os._exit(1)
    os.close(started)
    try:
        if not os.read(running, 1):
            raise CheckFailed("the process that rewrites the ring ended at once")
        yield
    finally:
        os.close(running)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.promise("descriptor ring")
def test_ring_that_another_cpu_rewrites(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Lengths that change between check and use: the device uses the ones it checked.

    One length fits, the other is past the device's buffer. So a transfer is done with the one,
    or refused with the other, and the bytes around the target stay.
    """
    memory = buffer(kIODirectionInOut, 4096)
    base = memory.getPhysicalAddress()
    inside, outside = data.take(4096), data.take(4096)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    good = RingDescriptor(base, 64, 0, WRITE)
    bad = RingDescriptor(base, bench.device.buffer_size + 64, 0, WRITE)
    due = {(64, DmaReason.NONE, 64), (bad.length, DmaReason.BUFFER_RANGE, 0)}
    seen: set[tuple[int, DmaReason, int]] = set()
    ring_memory = buffer(kIODirectionInOut, 2 * DESCRIPTOR)
    count = 0
    with open_ring(bench, ring_memory, 2) as ring:
        ring.put(0, good)
        ring.put(1, good)
        with (
            bench.device.expects(DmaReason.BUFFER_RANGE),
            rewriter(bench, ring_memory, 8, good.pack()[8:12], bad.pack()[8:12]),
        ):
            while count < REWRITTEN_MAX and (count < REWRITTEN_MIN or seen < due):
                for tail in 1, 0:
                    status = ring.doorbell(tail)
                    record = bench.device.record(bench.device.dma_count)
                    seen.add((record.length, record.reason, record.moved))
                    count += 1
                    if status is not (RingStatus.REFUSED if record.reason else RingStatus.OK):
                        raise CheckFailed(f"{status.name} after {record.reason.name}")
                    if record.reason:
                        ring.restart()
                        break
    with memory.view() as view:
        wrong = difference(inside[:64] + outside[64:], bytes(view))
    attest(
        "descriptor ring",
        asked=f"{count} descriptors that change while they are read",
        attested="; ".join(f"{length} bytes: {reason.name}" for length, reason, _ in sorted(seen)),
        kept=seen == due and not wrong,
        reason=wrong or "a transfer that was never asked for, or one that never came",
        evidence="refusal",
    )
