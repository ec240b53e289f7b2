# SPDX-License-Identifier: Apache-2.0
"""Alignment, capacity, contiguity and the pools, as the device used them."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.board import described

ALIGNMENTS = tuple(1 << bit for bit in range(21))
CAPACITIES = (1, 3, 63, 64, 65, 255, 1000, 1025, 4095, 4096, 4097, 12289, 65536)


@pytest.mark.promise("alignment")
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_alignment(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, alignment: int
) -> None:
    # Three live at once: one alone could be aligned by luck.
    size = bench.fits(100)
    buffers = [buffer(kIODirectionOut, size + index, alignment) for index in range(3)]
    for memory in buffers:
        bench.device_reads(memory, data.take(size))
        attest.alignment(memory, alignment)


@pytest.mark.unprotected  # the canaries are to see a stray write, which the unit would deny
@pytest.mark.promise("capacity")
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_capacity_between_canaries(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, capacity: int
) -> None:
    """The device fills the buffer to its last byte; nothing around it changes.

    Canaries: the whole of the neighbour on each side, and the rest of the buffer's own cache line
    or page. The kernel lays and reads them by bus address, whatever the mappings say.
    """
    capacity = bench.fits(capacity)
    pool_registry.wake()  # what rests would lie between them
    crowd = sorted((buffer(kIODirectionInOut, capacity) for _ in range(5)), key=_start)
    for left, right in pairwise(crowd):
        if _end(left) > _start(right):
            attest.broken(
                "capacity",
                asked=f"{capacity} bytes",
                attested="live buffers overlap",
                reason=f"{_start(left):#x} to {_end(left):#x} overlaps {_start(right):#x}",
            )
    neighbours = [
        (left, middle, right)
        for left, middle, right in zip(crowd, crowd[1:], crowd[2:], strict=False)
        if _beside(left, middle) and _beside(middle, right)
    ]
    if not neighbours:
        places = ", ".join(f"{_start(each):#x}" for each in crowd)
        attest.unattested(
            "capacity", asked=f"{capacity} bytes", reason=f"no neighbours for canaries: {places}"
        )
        return
    left, memory, right = neighbours[0]
    first, mode = _start(left), memory.cache_mode
    start, content = _start(memory) - first, data.take(capacity)
    picture = data.take(_end(right) - first)
    bench.driver.write(first, picture, mode)
    lengths = {memory.getCapacity(), memory.getLength(), memory.getPhysicalSegment()[1], capacity}
    seen = bench.device_writes(memory, content)
    bench.device_sees(memory, content)
    expected = picture[:start] + content + picture[start + capacity :]
    spoilt = difference(expected, bench.driver.read(first, len(picture), mode))
    attest(
        "capacity",
        asked=f"{capacity} bytes",
        attested=f"{seen}, {len(picture) - capacity} canary bytes intact",
        kept=not spoilt and lengths == {capacity},
        reason=f"from {first:#x}, with the buffer at offset {start:#x}: {spoilt or 'intact'}; "
        f"lengths {sorted(lengths)}",
    )


def _start(memory: IOBufferMemoryDescriptor) -> int:
    return memory.getPhysicalAddress()


def _beside(left: IOBufferMemoryDescriptor, right: IOBufferMemoryDescriptor) -> bool:
    """Whether between two buffers there is nothing that is a third one's.

    What is before a buffer in its first page, up to where the other one's pages end, is nobody's.
    """
    return _end(left) in (_start(right), _start(right) & -PAGE)


def _end(memory: IOBufferMemoryDescriptor) -> int:
    """Return the bus address behind the last byte that is the buffer's alone."""
    with memory.footprint() as view:
        return _start(memory) + len(view)


@pytest.mark.promise("capacity")
def test_live_buffers_share_no_byte(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The device writes to every buffer of a crowd, then reads all of them back."""
    sizes = map(bench.fits, (1, 64, 65, 700, 4096, 5000, 64, 3, 2048, 16384, 100, 1))
    crowd = [(buffer(kIODirectionInOut, size), data.take(size)) for size in sizes]
    for memory, content in crowd:
        bench.device_writes(memory, content)
    places = sorted(
        (seen.address, seen.address + seen.length)
        for seen in (bench.device_sees(memory, content) for memory, content in crowd)
    )
    gaps = [after[0] - before[1] for before, after in pairwise(places)]
    attest(
        "capacity",
        asked=f"{len(crowd)} live buffers apart",
        attested=f"each holds what the device wrote; least gap {min(gaps)} bytes",
        kept=min(gaps) >= 0,
    )


@pytest.mark.parametrize("size", [1, PAGE + 1, 1024001])
@pytest.mark.parametrize(
    ("option", "name"),
    [
        pytest.param(option, name, marks=pytest.mark.promise(name), id=name)
        for option, name in (
            (kIOMemoryPhysicallyContiguous, "kIOMemoryPhysicallyContiguous"),
            (kIOMemoryHostPhysicallyContiguous, "kIOMemoryHostPhysicallyContiguous"),
        )
    ],
)
def test_contiguous_by_use(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    option: int,
    name: str,
    size: int,
) -> None:
    """The device stamps every page by bus address; the CPU finds the stamps in order."""
    size = bench.fits(size)
    memory = buffer(kIODirectionInOut | option, size)
    base, length = memory.getPhysicalSegment(0)
    stamps = data.take(size)
    with memory.view() as view:
        view[:] = inverted(stamps)
    window = bench.device.buffer_size
    for start in range(0, size, window):
        chunk = stamps[start : start + window]
        bench.load(chunk)
        for offset in range(0, len(chunk), PAGE):
            page = base + start + offset
            for place, part in bench.parts(page, min(PAGE, len(chunk) - offset)):
                at = offset + place
                due = zlib.crc32(chunk[at : at + part])
                bench.move(page + place, part, due, write_memory=True, offset=at)
    with memory.view() as view:
        wrong = difference(stamps, bytes(view))
    if wrong or length != size:
        raise CheckFailed(f"stamps: {wrong or 'in order'}; the first segment has {length} bytes")
    attest.contiguous(memory, promise=name, asked=f"{size} bytes in one segment")


@pytest.mark.promise("pool")
@pytest.mark.parametrize(
    ("pool", "least", "limit"),
    [("low", 0, 1 << 24), ("main", 0, 1 << 28), ("high", 1 << 32, 1 << 64)],
    ids=["low", "main", "high"],
)
def test_pool(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    pool: str,
    least: int,
    limit: int,
) -> None:
    """A pool's memory lies where narrow or wide devices need it.

    A device with enough address bits reaches it; one with less must say so, and leave it alone.
    """
    size = bench.fits(70000)
    memory = buffer(kIODirectionIn, size, pool=pool)
    asked = f"{pool}: {least:#x} to {limit:#x}"
    if memory.getPhysicalAddress() >= bench.limits.end:
        outside = data.take(size)
        with memory.view() as view:
            view[:] = outside
        base, length = memory.getPhysicalAddress(), bench.one_dma(4096)
        due = bench.limits.refusal((base, length))
        record = bench.refused_dma(due, base, length, write_memory=True)
        with memory.view() as view:
            wrong = difference(outside, bytes(view))
        attest(
            "pool",
            asked=f"{asked}, beyond {bench.limits.address_bits} address bits",
            attested=f"{record.reason.name} at {base:#x}, {record.moved} bytes",
            kept=(record.reason, record.moved) == (DmaReason.ADDRESS_BITS, 0) and not wrong,
            reason=wrong,
            evidence="refusal",
        )
        return
    seen = bench.device_writes(memory, data.take(size))
    attest(
        "pool",
        asked=asked,
        attested=str(seen),
        kept=least <= seen.address and seen.address + seen.length <= limit,
    )


@pytest.mark.promise("inTask")
def test_current_task(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Under this process's own root, the buffer's address leads to what the device uses."""
    size = bench.fits(10000)
    memory = buffer(kIODirectionInOut, size)
    seen = bench.device_reads(memory, data.take(size))
    runs = bench.witness(memory)
    root = bench.driver.query(memory.address).root
    offset = memory.address % PAGE
    kept = runs[0].physical + offset == seen.address and all(run.user for run in runs)
    attest(
        "inTask",
        asked=f"{current_task()}",
        attested=f"root {root:#x} leads to {runs[0].physical + offset:#x}; {seen}",
        kept=kept,
        reason=f"witness: {described(runs)}",
    )
