# SPDX-License-Identifier: Apache-2.0
"""Mistakes of drivers, and the report that each gets on a board that is not coherent.

On a coherent PC all of them work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaReason, RingDescriptor, RingFlag, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing, held_dma
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheMissingCall
from dma_rehearsal.guest.drivers.platform.cache_unit import CacheReportKind as Kind
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODirection,
    IOOptions,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMapInhibitCache,
)
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    NonCoherent,
    OtherProcess,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.buffers import reached_pool
from dma_rehearsal.guest.testkit.noncoherent import LINE

PROMISE = "driver mistakes"
LENGTH = 4 * LINE
pytestmark = [pytest.mark.promise(PROMISE), pytest.mark.any_device]


def make(
    board: NonCoherent, direction: IOOptions | IODirection, content: bytes
) -> IOBufferMemoryDescriptor:
    """Make a write-back buffer with ``content``, which the device owns."""
    made = board.buffer(IOOptions.of(direction) | kIOMapCopybackCache, len(content))
    made.writeBytes(0, content)
    made.sync_for_device()
    return made


def test_sync_forgotten_before_transmit(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionOut, old)
    memory.writeBytes(0, new)
    sent = noncoherent.reads(memory, 0, LENGTH)
    with noncoherent.expects(Kind.RELEASED_DIRTY) as reports:
        memory.release()
    attest(
        PROMISE,
        asked="sync forgotten before transmit",
        attested=noncoherent.said(reports[0]),
        kept=sent == old and reports[0].expected == new[:LINE] and reports[0].lines == 4,
        reason=difference(old, sent),
        evidence="cache",
    )


def test_sync_forgotten_after_receive(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionIn, old)
    noncoherent.writes(memory, LINE, new[:LINE])
    loaded = memory.readBytes(0, LENGTH)
    with noncoherent.expects(Kind.RELEASED_UNREAD) as reports:
        memory.release()
    attest(
        PROMISE,
        asked="sync forgotten after receive",
        attested=noncoherent.said(reports[0]),
        kept=loaded == old and (reports[0].line, reports[0].expected) == (1, new[:LINE]),
        reason=difference(old, loaded),
        evidence="cache",
    )


def test_second_receive_after_a_store_without_its_sync(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Without a store it is right; see `test_cache_right_drivers`."""
    old, first, second = (data.take(LENGTH) for _ in range(3))
    memory = make(noncoherent, kIODirectionIn, old)
    noncoherent.writes(memory, 0, first)
    memory.sync_for_cpu()
    mark = inverted(first[LINE : LINE + 4])
    memory.writeBytes(LINE, mark)
    with noncoherent.expects(Kind.WRITE_TO_DIRTY_LINE) as reports:
        noncoherent.writes(memory, 0, second)
    with noncoherent.expects(Kind.CPU_BYTES_LOST):
        memory.sync_for_cpu()
    said = noncoherent.said(reports[0])
    attest(
        PROMISE,
        asked="second receive after a store, without its sync_for_device",
        attested=said,
        kept=(reports[0].line, reports[0].lines) == (1, 1)
        and f"offset {LINE}, line 1; expected {mark.hex(' ')}, seen " in said
        and said.endswith("missing: sync_for_device() before the receive")
        and memory.readBytes(0, LENGTH) == second,
        evidence="cache",
    )


def test_a_late_sync_loses_what_was_received(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Store, receive, then the sync that should have come between: the device's bytes are gone."""
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionInOut, old)
    memory.writeBytes(LINE, b"store")
    with noncoherent.expects(Kind.WRITE_TO_DIRTY_LINE):
        noncoherent.writes(memory, 0, new)
    with noncoherent.expects(Kind.DEVICE_BYTES_LOST) as reports:
        memory.sync_for_device()
    memory.sync_for_cpu()
    due = new[:LINE] + b"store" + old[LINE + 5 : 2 * LINE] + new[2 * LINE :]
    wrong = difference(due, memory.readBytes(0, LENGTH))
    attest(
        PROMISE,
        asked="a store before a receive, synced after it",
        attested=noncoherent.said(reports[0]),
        kept=not wrong and reports[0].expected == new[LINE : 2 * LINE],
        reason=wrong,
        evidence="cache",
    )


def test_wrong_sync_direction(noncoherent: NonCoherent, data: Patterns, attest: Attest) -> None:
    """The consequence: Out does not invalidate, so the CPU does not see the device's bytes."""
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionIn, old)
    noncoherent.writes(memory, 0, new)
    with noncoherent.expects(Kind.WRONG_DIRECTION) as reports:
        memory.sync_for_cpu(0, LENGTH, kIODirectionOut)
    loaded = memory.readBytes(0, LENGTH)
    with noncoherent.expects(Kind.RELEASED_UNREAD):
        memory.release()
    attest(
        PROMISE,
        asked="wrong sync direction",
        attested=noncoherent.said(reports[0]),
        kept=loaded == old,
        reason=difference(old, loaded),
        evidence="cache",
    )


def test_stored_to_while_the_device_owns_it(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    old = data.take(LENGTH)
    memory = make(noncoherent, kIODirectionOut, old)
    late = inverted(old[2 * LINE + 3 : 2 * LINE + 7])  # no byte is what was there
    memory.writeBytes(2 * LINE + 3, late)
    sent = noncoherent.reads(memory, 0, LENGTH)
    with noncoherent.expects(Kind.STORED_WHILE_DEVICE_OWNS) as reports:
        memory.sync_for_cpu()
    memory.sync_for_device()
    (report,) = reports
    attest(
        PROMISE,
        asked="stored to while the device owns it",
        attested=noncoherent.said(report),
        kept=sent == old and (report.offset, report.line, report.seen) == (131, 2, late),
        reason=difference(old, sent),
        evidence="cache",
    )


def test_unmapped_before_completion(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """The front end refuses it; a driver that does it all the same loses the rest."""
    device, old, new = noncoherent.bench.device, data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionIn, old)
    noncoherent.bench.load(new)
    address = memory.getPhysicalAddress()
    with held_dma(device, address, LENGTH, write_memory=True, no_snoop=True) as dma:
        dma.step(LINE)
        try:
            memory.release()
        except IOBusyError as error:
            refused = str(error)
        else:
            raise CheckFailed("release() passes while a DMA is in flight")
        with noncoherent.expects(Kind.RELEASED_UNREAD) as reports:
            noncoherent.unit.untrack(noncoherent.caches.tag_of(memory))
        with device.expects(DmaReason.CACHE_UNTRACKED):
            dma.step(LENGTH)
            record = dma.record()
    left = memory.readBytes(0, LENGTH)
    due = new[:LINE] + old[LINE:]
    attest(
        PROMISE,
        asked="unmapped before completion",
        attested=f"{noncoherent.said(reports[0])}; then the DMA: {record.reason.name}",
        kept=record.reason is DmaReason.CACHE_UNTRACKED
        and left == due
        and "DMA may be active" in refused,
        reason=f"{record}; {difference(due, left)}; {refused}",
    )


def test_transmit_that_was_never_given(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """No sync at all: the device reads what was in memory before the buffer."""
    content = data.take(LENGTH)
    memory = noncoherent.buffer(kIODirectionOut | kIOMapCopybackCache, LENGTH)
    memory.writeBytes(0, content)
    sent = noncoherent.reads(memory, LINE, LINE)
    with noncoherent.expects(Kind.RELEASED_DIRTY) as reports:
        memory.release()
    said = noncoherent.said(reports[0])
    attest(
        PROMISE,
        asked="transmit that was never given to the device",
        attested=said,
        kept=sent != content[LINE : 2 * LINE]
        and (reports[0].line, reports[0].lines) == (1, 1)
        and said.endswith("missing: sync_for_device() after the store"),
        evidence="cache",
    )


@pytest.mark.unlimited("alignment")
def test_two_parts_of_a_buffer_in_one_line(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Each sync is in its place; the line is the mistake, and the report says so."""
    half, content = LINE // 2, data.take(LENGTH)
    memory = make(noncoherent, kIODirectionInOut, content)
    stored = inverted(content[half - 4 : half])  # other bytes at every place
    memory.writeBytes(half - 4, stored)
    with noncoherent.expects(Kind.WRITE_TO_DIRTY_LINE) as reports:
        noncoherent.writes(memory, half, data.take(half))
    with noncoherent.expects(Kind.CPU_BYTES_LOST) as lost:
        memory.sync_for_cpu(half, half)
    said = noncoherent.said(reports[0])
    attest(
        PROMISE,
        asked="two parts of a buffer in one line",
        attested=said,
        kept=reports[0].missing is lost[0].missing is CacheMissingCall.NONE_LINE_IS_SHARED
        and f"offset {half - 4}, line 0; expected {stored.hex(' ')}, seen " in said
        and "another part of the same buffer" in said,
        evidence="cache",
    )


@pytest.mark.unlimited("alignment")
def test_buffer_not_line_aligned(noncoherent: NonCoherent, data: Patterns, attest: Attest) -> None:
    """A header that the CPU writes, and a received part, in one line."""
    old, new = data.take(LENGTH), data.take(LENGTH)
    memory = make(noncoherent, kIODirectionInOut, old)
    memory.writeBytes(0, b"header")
    with noncoherent.expects(Kind.WRITE_TO_DIRTY_LINE) as reports:
        noncoherent.writes(memory, 6, new[:LINE])
    with noncoherent.expects(Kind.CPU_BYTES_LOST) as lost:
        memory.sync_for_cpu(6, LINE)
    due = old[:6] + new[:LINE] + old[6 + LINE :]
    wrong = difference(due, memory.readBytes(0, LENGTH))
    attest(
        PROMISE,
        asked="buffer not line-aligned",
        attested=f"{noncoherent.said(reports[0])}; then {noncoherent.said(lost[0])}",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


def test_stale_descriptor_reused(noncoherent: NonCoherent, data: Patterns, attest: Attest) -> None:
    """The memory of the descriptor's buffer is another buffer's by now, which the report names."""
    bench, new = noncoherent.bench, data.take(LENGTH)
    uncached = kIODirectionInOut | kIOMapInhibitCache
    ring_memory = noncoherent.buffer(uncached, 2 * RingDescriptor.STRUCT.size)
    pool_registry.wake()
    first = make(noncoherent, kIODirectionInOut, data.take(LENGTH))
    address = first.getPhysicalAddress()
    bench.load(new)
    flags = RingFlag.WRITE_MEMORY | RingFlag.NO_SNOOP
    with ring_memory.view() as view:
        with DescriptorRing(bench.device, view, ring_memory.getPhysicalAddress(), 2) as ring:
            for index in 0, 1:
                ring.put(index, RingDescriptor(address, LENGTH, 0, flags))
            status = [ring.doorbell(1)]
            first.sync_for_cpu()
            first.sync_for_device()
            received = first.readBytes(0, LENGTH)
            first.release()
            pool_registry.wake()  # as if so much had been released since that its rest is over
            second = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, LENGTH)
            if second.getPhysicalAddress() != address:
                raise CheckFailed("the memory was not used again, so nothing can be shown")
            with noncoherent.expects(Kind.WRITE_TO_DIRTY_LINE) as reports:
                status.append(ring.doorbell(0))
        name = noncoherent.said(reports[0])
    second.sync_for_cpu()
    attest(
        PROMISE,
        asked="stale descriptor reused",
        attested=name,
        kept=status == [RingStatus.OK] * 2
        and received == new
        and reports[0].tag == noncoherent.caches.tag_of(second),
        reason=f"doorbells: {status}; {difference(new, received)}",
        evidence="cache",
    )


@pytest.mark.kernel
def test_mistake_of_another_process(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """Its report still names the buffer, whichever process takes the report."""
    old, pool = data.take(LENGTH), reached_pool(noncoherent.bench.limits)

    def body(ask: Callable[[], Any]) -> Iterator[object]:
        options = kIODirectionOut | kIOMapCopybackCache
        with IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), options, LENGTH, pool=pool
        ) as memory:
            memory.writeBytes(0, old)
            memory.sync_for_device()
            memory.writeBytes(LINE, inverted(old[LINE : LINE + 5]))
            yield repr(memory).partition(", prepared")[0]  # which may be another by now
            ask()
        yield "released"

    with noncoherent.expects(Kind.RELEASED_DIRTY) as reports, OtherProcess(body) as other:
        name, pid = other.hear(), other.pid
        other.tell()
        other.hear()
    said = noncoherent.said(reports[0])
    attest(
        PROMISE,
        asked="sync forgotten before transmit, by another process",
        attested=said,
        kept=name in said
        and f"of process {pid}" in said
        and (reports[0].offset, reports[0].line) == (LINE, 1),
        reason=f"the buffer is {name}",
        evidence="cache",
    )
