# SPDX-License-Identifier: Apache-2.0
"""Whole lines: neighbours in one, syncs of a part, and two mappings of the same ones."""

from __future__ import annotations

import ctypes
import mmap
import warnings
from itertools import product

import pytest

from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.drivers.platform.cache_unit import (
    CacheDirection,
    CacheError,
    CacheReportKind,
    CacheStatus,
)
from dma_rehearsal.guest.faults.driver import driver_fault
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOAlignmentWarning,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IOSubMemoryDescriptor,
    current_task,
    kIODirectionInOut,
    kIOMapCopybackCache,
    kIOMapUnique,
    kIOMapWriteThruCache,
    kIOMemoryIncoherentIOStore,
)
from dma_rehearsal.guest.iobuffer.descriptors.general_descriptor import IOGeneralMemoryDescriptor
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    NonCoherent,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.board import EFFECTIVE
from dma_rehearsal.guest.testkit.noncoherent import LINE, noncoherent_board

pytestmark = pytest.mark.any_device

PROMISE = "cache line"
BIG_LINE = 128
modes = pytest.mark.parametrize("mode", list(EFFECTIVE), ids=lambda mode: mode.name)


def two_in_one_line(
    board: NonCoherent, alignment: int | None
) -> tuple[IOBufferMemoryDescriptor, IOBufferMemoryDescriptor] | None:
    """Make small buffers until two are in one line; None when all of some have their own."""
    made: list[IOBufferMemoryDescriptor] = []
    for _ in range(8):
        new = board.buffer(kIODirectionInOut, 40, alignment)
        for other in made:
            places = {each.getPhysicalAddress() // BIG_LINE for each in (new, other)}
            if len(places) == 1:
                return other, new
        made.append(new)
    return None


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
def test_two_buffers_in_one_line(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """With ``alignment=1``, and a warning; the default alignment gives each its own line."""
    content, stored = data.take(40), data.take(40)
    with noncoherent_board(bench, line=BIG_LINE) as board:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apart = two_in_one_line(board, None)
        with pytest.warns(IOAlignmentWarning, match=f"a cache line of {BIG_LINE} bytes") as warned:
            pair = two_in_one_line(board, 1)
        if apart is not None or pair is None:
            raise CheckFailed(f"by default two share a line: {apart}; with alignment=1: {pair}")
        received, neighbour = pair
        for each in pair:
            each.sync_for_device()
        board.writes(received, 0, content)
        neighbour.writeBytes(0, stored)
        with board.expects(CacheReportKind.CPU_BYTES_LOST) as reports:
            received.sync_for_cpu()
        lost = neighbour.readBytes(0, 40)
        name = board.caches.name_of(board.caches.tag_of(neighbour))
        kept = received.readBytes(0, 40) == content and lost == bytes(40)
        said = board.said(reports[0])
        kept = kept and f"these bytes are those of {name}, in" in said
        kept = kept and f"made at {neighbour.made_at}" in name
        kept = kept and f"expected {stored[:16].hex(' ')} ..., seen 00" in said
    attest(
        PROMISE,
        asked=f"two buffers in one line of {BIG_LINE} bytes: {len(warned)} warnings",
        attested=said,
        kept=kept,
        reason=f"the neighbour has {lost.hex(' ')}",
        evidence="cache",
    )


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize(
    ("clean", "kind"),
    [(True, CacheReportKind.DEVICE_BYTES_LOST), (False, CacheReportKind.CPU_BYTES_LOST)],
    ids=["clean", "invalidate"],
)
def test_foreign_bytes_in_a_line(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, clean: bool, kind: CacheReportKind
) -> None:
    """A part that is not aligned to lines: maintenance destroys the same bytes as on a board."""
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, 4 * LINE)
    old, content, foreign = data.take(4 * LINE), data.take(LINE), data.take(4)
    memory.writeBytes(0, old)
    memory.performOperation(kIOMemoryIncoherentIOStore, 0, 4 * LINE)
    with IOSubMemoryDescriptor.withSubRange(memory, 10, LINE, kIODirectionInOut) as part:
        noncoherent.writes(part, 0, content)
        memory.writeBytes(0, foreign)  # in the part's first line, and not the part's
        with noncoherent.expects(kind) as reports:
            if clean:
                part.sync_for_device()
            else:
                part.sync_for_cpu()
    memory.sync_for_cpu()
    # The clean lost the device's bytes up to the end of the first line.
    if clean:
        due = foreign + old[4:LINE] + content[LINE - 10 :] + old[10 + LINE :]
    else:
        due = old[:10] + content + old[10 + LINE :]
    wrong = difference(due, memory.readBytes(0, 4 * LINE))
    attest(
        PROMISE,
        asked=f"a store beside a received part in one line, then {'clean' * clean or 'invalidate'}",
        attested=noncoherent.said(reports[0]),
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


@pytest.mark.unlimited("alignment")
@pytest.mark.promise(PROMISE)
def test_write_through_stores_bytes_not_lines(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """The CPU's store beside the device's bytes takes nothing else of the line to memory."""
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapWriteThruCache, LINE)
    old, content, stored = data.take(LINE), data.take(20), data.take(20)
    memory.writeBytes(0, old)
    memory.sync_for_device()
    noncoherent.writes(memory, 0, content)
    memory.writeBytes(40, stored)
    due = content + old[20:40] + stored + old[60:]
    seen = noncoherent.reads(memory, 0, LINE)
    # The CPU has stored while the device owns the buffer: 20 bytes of one line.
    with noncoherent.expects(CacheReportKind.STORED_WHILE_DEVICE_OWNS):
        memory.sync_for_cpu()
    loaded = memory.readBytes(0, LINE)
    attest(
        PROMISE,
        asked="WRITE_THRU: device and CPU write different bytes of one line",
        attested="both are there" if seen == due else difference(due, seen),
        kept=seen == due == loaded,
        reason=f"device: {difference(due, seen)}; CPU: {difference(due, loaded)}",
        evidence="cache",
    )


@pytest.mark.unlimited("addresses", "alignment", "segments")
@pytest.mark.kernel
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("skip", [0, 16], ids=["lines of its own", "beside others"])
def test_memory_that_was_there_before(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, skip: int
) -> None:
    """Wired, it is tracked like a buffer; parts that share lines cannot be synced."""
    length, content = 2 * LINE, data.take(2 * LINE)
    with (
        mmap.mmap(-1, PAGE) as memory,
        IOGeneralMemoryDescriptor.withAddressRange(
            ctypes.addressof(ctypes.c_char.from_buffer(memory)) + skip,
            length,
            kIODirectionInOut,
            current_task(),
        ) as existing,
    ):
        existing.prepare()
        try:
            existing.sync_for_device()
        except IODeviceError as error:
            attested = str(error)
            wrong = "" if "give it lines of its own" in attested else attested
        else:
            attested = "received, with both syncs"
            noncoherent.writes(existing, 0, content)
            existing.sync_for_cpu()
            wrong = difference(content, existing.readBytes(0, length))
        existing.complete()
    attest(
        PROMISE,
        asked=f"memory of this process, {skip} bytes behind a line's start",
        attested=attested,
        kept=not wrong and ("received" in attested) is not bool(skip),
        reason=wrong,
        evidence="register" if skip else "bytes",
    )


EDGE = (0, 1, LINE - 1, LINE, LINE + 1, 2 * LINE - 1)


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("start", EDGE)
@pytest.mark.parametrize("to_device", [True, False], ids=["for_device", "for_cpu"])
def test_part_of_a_buffer(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, start: int, to_device: bool
) -> None:
    """Exactly the lines that the range touches, for each length around a line's edge."""
    size = 6 * LINE
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, size)
    old = data.take(size)
    new = inverted(old)
    memory.writeBytes(0, old)
    memory.sync_for_device()
    lengths = (1, 2, LINE - 1, LINE, LINE + 1, 2 * LINE, 2 * LINE + 1)
    for length in lengths:
        first, last = start // LINE * LINE, -(-(start + length) // LINE) * LINE
        due = old[:first] + new[first:last] + old[last:]
        if to_device:
            memory.writeBytes(0, new)
            memory.sync_for_device(start, length)
            seen = noncoherent.reads(memory, 0, size)
        else:
            noncoherent.writes(memory, 0, new)
            memory.sync_for_cpu(start, length)
            seen = memory.readBytes(0, size)
            memory.sync_for_cpu()
        wrong = difference(due, seen)
        if wrong:
            raise CheckFailed(f"{length} bytes from {start} on: {wrong}")
        memory.writeBytes(0, old)
        memory.sync_for_device()
    attest(
        PROMISE,
        asked=f"sync_{'for_device' if to_device else 'for_cpu'} from byte {start} on",
        attested=f"{len(lengths)} lengths, the lines touched and no other",
        kept=True,
        evidence="cache",
    )


@pytest.mark.promise("cache aliases")
def test_two_mappings_of_the_same_lines(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """A store through one is dirty in both; each can be tracked, and a sync of one covers all."""
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, 4 * LINE)
    old, new = data.take(4 * LINE), data.take(4 * LINE)
    memory.writeBytes(0, old)
    memory.sync_for_device()
    unit, tag = noncoherent.unit, 0xA11A5
    with memory.createMappingInTask(current_task(), 0, kIOMapUnique) as alias:
        entry = noncoherent.bench.driver.query(alias.getAddress())
        place = alias.getAddress()
        unit.track(tag, CacheDirection.IN_OUT, entry.root, place, 4 * LINE, entry.levels)
        with alias.view() as view:
            view[:] = new
        stale = noncoherent.reads(memory, 0, 4 * LINE)
        unit.clean(tag, 0, 4 * LINE)
        fresh = noncoherent.reads(memory, 0, 4 * LINE)
        unit.untrack(tag)
    attest(
        "cache aliases",
        asked="a store through a second mapping, cleaned through it",
        attested="the device reads old bytes before, new ones after",
        kept=place != memory.address and (stale, fresh) == (old, new),
        reason=f"before: {difference(old, stale)}; after: {difference(new, fresh)}",
        evidence="cache",
    )


@pytest.mark.promise("cache aliases")
@modes
def test_a_second_mapping_with_another_attribute(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, mode: CacheMode
) -> None:
    """The front end refuses each; the model would refuse to track one that exists."""
    memory = noncoherent.buffer(int(kIODirectionInOut) | mode << 8, LINE)
    memory.writeBytes(0, data.take(LINE))
    memory.sync_for_device()
    noncoherent.reads(memory, 0, LINE)
    given = []
    for other, unique in product(EFFECTIVE, (0, kIOMapUnique)):
        if other is mode:
            continue
        try:
            memory.createMappingInTask(current_task(), 0, int(unique) | other << 8).unmap()
        except IOBusyError:
            continue
        given.append(other.name)
    attest(
        "cache aliases",
        asked=f"{mode.name}, mapped again with each other mode",
        attested="refused" if not given else f"given: {', '.join(given)}",
        kept=not given,
        evidence="cache",
    )


@pytest.mark.kernel
@pytest.mark.promise("cache aliases")
@modes
def test_aliases_by_force(noncoherent: NonCoherent, attest: Attest, mode: CacheMode) -> None:
    """With a driver that permits them: the witness finds each, and the model tracks none."""
    memory = noncoherent.buffer(int(kIODirectionInOut) | mode << 8, LINE)
    physical, unit, driver = memory.getPhysicalAddress(), noncoherent.unit, noncoherent.bench.driver
    found, refused = {}, []
    with driver_fault("aliases"):
        for other in EFFECTIVE:
            if other is mode:
                continue
            alias = driver.map(physical & -PAGE, PAGE, other)
            place = alias.address + physical % PAGE
            (run,) = noncoherent.bench.witness_range(place, LINE)
            found[other] = run.effective
            if run.physical != physical & -PAGE:
                raise CheckFailed(f"the alias of {physical:#x} is at {run.physical:#x}")
            entry = driver.query(place)
            try:
                unit.track(0xA11A5, CacheDirection.IN_OUT, entry.root, place, LINE, entry.levels)
            except CacheError as error:
                refused.append((error.status, error.address))
            else:
                unit.untrack(0xA11A5)
            alias.close()
    (own,) = noncoherent.bench.witness_range(memory.address, LINE)
    attest(
        "cache aliases",
        asked=f"{mode.name}, and by force with each other mode",
        attested=f"the witness finds {own.effective.name}, and as aliases "
        f"{', '.join(each.name for each in found.values())}; the model refuses {len(refused)}",
        kept=found == {other: EFFECTIVE[other] for other in found}
        and own.effective is EFFECTIVE[mode]
        and refused == [(CacheStatus.BUSY, physical)] * len(found),
        reason=f"found {found}; refused {refused}",
        evidence="walk",
    )
