# SPDX-License-Identifier: Apache-2.0
"""Hostile placement within a test: right requests hold, and mistakes are found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheReportKind
from dma_rehearsal.guest.iobuffer import (
    IOAlignmentWarning,
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionInOut,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.placement import Hostile
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.testkit import (
    Attest,
    Denial,
    DmaChecker,
    MakeBuffer,
    NonCoherent,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.dma_checker import CheckedMemory
from dma_rehearsal.guest.testkit.noncoherent import LINE

pytestmark = [pytest.mark.any_device, pytest.mark.unlimited]

CARRY = 1 << 32
PROMISE = "placement"
# A shared line damages a device's write, and the write-back damages the written bytes.
MISTAKE = CacheReportKind.WRITE_TO_DIRTY_LINE, CacheReportKind.DEVICE_BYTES_LOST
create = IOBufferMemoryDescriptor.inTaskWithOptions


@pytest.fixture(autouse=True)
def _hostile(bench: DmaChecker, seed: int) -> Iterator[None]:  # noqa: ARG001
    """Place what the test makes, and not the bench's own memory, by the hostile policy."""
    before, dma_platform.placement = dma_platform.placement, Hostile(seed)
    yield
    dma_platform.placement = before


@pytest.mark.promise(PROMISE)
def test_without_a_mask_a_buffer_is_high(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """A driver that states 32 bits gets them; one that forgot is above."""
    make = IOBufferMemoryDescriptor.inTaskWithPhysicalMask
    with (
        create(current_task(), kIODirectionInOut, PAGE) as forgotten,
        make(current_task(), kIODirectionInOut, PAGE, CARRY - 1) as stated,
    ):
        high = bench.device_writes(forgotten, data.take(PAGE))
        low = bench.device_writes(stated, data.take(PAGE))
    attest(
        PROMISE,
        asked=f"{PAGE} bytes without a mask, and below 4 GiB",
        attested=f"{high}; {low}",
        kept=low.address + PAGE <= CARRY <= high.address and high.address % PAGE != 0,
    )


@pytest.mark.promise(PROMISE)
def test_small_buffers_share_a_line_unless_alignment_is_asked(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The device fills each to its last byte, and the neighbours keep theirs."""
    tables = [buffer(kIODirectionInOut, 20, 4) for _ in range(8)]
    aligned = [buffer(kIODirectionInOut, 20, LINE) for _ in range(8)]
    contents = [data.take(20) for _ in range(16)]
    for each, content in zip((*tables, *aligned), contents, strict=True):
        bench.device_writes(each, content)
    wrong = [
        found
        for each, content in zip((*tables, *aligned), contents, strict=True)
        if (found := difference(content, each.readBytes(0, 20)))
    ]
    shared = [each.getPhysicalAddress() // LINE for each in tables]
    own = [each.getPhysicalAddress() // LINE for each in aligned]
    attest(
        PROMISE,
        asked=f"8 of 20 bytes at alignment 4, and 8 at {LINE}",
        attested=f"{len(set(shared))} lines begin the first, {len(set(own))} the others",
        kept=len(set(shared)) < 8
        and len(set(own)) == 8
        and not set(own) & {(each.getPhysicalAddress() + 19) // LINE for each in tables}
        and not set(own) & set(shared)
        and all(each.getPhysicalAddress() % PAGE for each in tables)
        and not wrong,
        reason="; ".join(wrong) or f"lines {shared} and {own}",
    )


@pytest.mark.kernel
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("kind", ["pinned", "pageable"])
def test_scattered_memory_has_no_two_pages_in_a_row(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    size = 64 * PAGE
    if kind == "pinned":
        memory = buffer(kIODirectionInOut, size, pool="pinned")
    else:
        memory = buffer(kIODirectionInOut | kIOMemoryPageable, size)
        memory.prepare()
    seen = bench.device_writes(memory, data.take(size))
    segments = memory.segments()
    if kind == "pageable":
        memory.complete()
    attest(
        PROMISE,
        asked=f"{size} bytes, {kind}",
        attested=f"{len(segments)} segments; {seen}",
        kept=len(segments) > 48,  # the kernel has the last word
    )


@pytest.mark.promise(PROMISE)
def test_a_shared_line_is_found_where_devices_do_not_snoop(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Two buffers of a line and a half: one dirties the line that the device writes for the other.

    With alignment left out it is a line's, and the same driver is right.
    """
    size = LINE + LINE // 2
    reports = []
    for alignment in 16, None:
        # Of four that follow one another two share a line, wherever in a line the first begins.
        if alignment is None:
            made = [noncoherent.buffer(kIODirectionInOut, size) for _ in range(4)]
        else:
            with pytest.warns(IOAlignmentWarning):
                made = [noncoherent.buffer(kIODirectionInOut, size, alignment) for _ in range(4)]
        made.sort(key=IOBufferMemoryDescriptor.getPhysicalAddress)
        pairs = [*pairwise(made)]
        sharing = [pair for pair in pairs if _line(pair[0], size - 1) == _line(pair[1], 0)]
        first, second = (sharing or pairs)[0]
        reports.append(bool(sharing))
        second.sync_for_device()
        first.writeBytes(size - 4, b"used")
        with noncoherent.expects(*([] if alignment is None else MISTAKE)):
            noncoherent.writes(second, 0, data.take(size))
            first.sync_for_device()
        second.sync_for_cpu()
    attest(
        PROMISE,
        asked=f"two of {size} bytes at alignment 16, and by default",
        attested=f"share a line: {reports}",
        kept=reports == [True, False],
    )


def _line(memory: IOBufferMemoryDescriptor, offset: int) -> int:
    return (memory.getPhysicalAddress() + offset) // LINE


@pytest.mark.iommu
@pytest.mark.promise(PROMISE)
def test_a_carry_that_is_lost_is_denied(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """The buffer lies across 4 GiB: its second half is where 64 bits say, and not where 32 do."""
    others: list[CheckedMemory] = [bench.staging]  # which may be across, too
    for pages in range(16, 128, 8):
        size = pages * PAGE
        memory = buffer(kIODirectionInOut, size)
        start = memory.getPhysicalAddress()
        last = start + size - 1
        assert start // CARRY + 1 == last // CARRY
        lost = start & -CARRY | last % CARRY
        if not any(at <= lost < at + room for each in others for at, room in each.segments()):
            break
        others.append(memory)
    content = data.take(size)
    bench.device_reads(memory, content)
    denied("carry lost", lost, DmaReason.UNMAPPED, write=True, length=1)
    denied.intact(memory, content)
    denied.done(f"across {last & -CARRY:#x}: the carry must not be lost", PROMISE)


@pytest.mark.iommu
@pytest.mark.promise(PROMISE)
def test_bus_addresses_are_apart(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Buffers mapped one after the other cannot pass for one segment."""
    buffers = [buffer(kIODirectionInOut, PAGE, PAGE) for _ in range(8)]
    seen = [bench.device_writes(each, data.take(PAGE)).address for each in buffers]
    gaps = [high - low - PAGE for low, high in pairwise(sorted(seen))]
    attest(
        PROMISE,
        asked="8 pages, one at a time",
        attested=f"gaps of {min(gaps)} bytes and more, the last at {max(seen):#x}",
        kept=min(gaps) > 0 and min(seen) > CARRY,
    )
