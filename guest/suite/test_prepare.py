# SPDX-License-Identifier: Apache-2.0
"""prepare() and complete(): pageable memory gets a place, keeps it, and loses it; nesting; ids."""

from __future__ import annotations

import mmap

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODirection,
    IONotReadyError,
    IOOptions,
    IOReturn,
    kIODirectionCompleteWithDataValid,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionNone,
    kIODirectionOut,
    kIODirectionPrepareNoZeroFill,
    kIODirectionPrepareToPhys32,
    kIOMemoryAutoPrepare,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.linux import page_frames
from dma_rehearsal.guest.linux.swap import zram_swap
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.buffers import code_of
from dma_rehearsal.guest.testkit.guarded import edges

pytestmark = pytest.mark.any_device

SIZE = 64 * PAGE + 100
PAGEABLE = "kIOMemoryPageable"


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise(PAGEABLE)
@pytest.mark.parametrize(
    "direction", [kIODirectionOut, kIODirectionIn, kIODirectionInOut], ids=["out", "in", "inout"]
)
def test_prepared_memory_is_scattered_and_the_device_finds_it(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    memory = buffer(direction | kIOMemoryPageable, SIZE)
    before = code_of(memory.getPhysicalSegment, 0)
    memory.prepare()
    segments = memory.segments()
    seen = None
    if direction.direction & IODirection.kIODirectionOut:
        seen = bench.device_reads(memory, data.take(SIZE))
    if direction.direction & IODirection.kIODirectionIn:
        seen = bench.device_writes(memory, data.take(SIZE))
    memory.complete()
    after = code_of(memory.getPhysicalSegment, 0)
    attest(
        PAGEABLE,
        asked=f"{direction.direction.name}: {SIZE} bytes, scatter-gather",
        attested=f"{len(segments)} segments; {seen}; unprepared: {before.name}, {after.name}",
        kept=before is after is IOReturn.kIOReturnNotReady
        and sum(length for _, length in segments) == SIZE,
        reason=f"segments {segments[:4]}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise(PAGEABLE)
def test_moves_and_is_paged_out_until_it_is_prepared(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Paged out and read again, memory has other frames; what is prepared keeps its own.

    (The kernel unmaps a pinned page of a memfd when it looks for memory, but the page stays.)
    """
    memory = buffer(kIODirectionInOut | kIOMemoryPageable, SIZE)
    content = data.take(SIZE)
    memory.writeBytes(0, content)

    def moved() -> int:
        """Page out, compact, read everything; return how many pages are elsewhere then."""
        before = page_frames.frames(memory.address, SIZE)
        virtual_memory.advise(memory.address, SIZE, page_frames.MADV_PAGEOUT)
        page_frames.compact_memory()
        with page_frames.PageRegion(4 << 20):  # takes the frames that have come free
            if memory.readBytes(0, SIZE) != content:
                raise CheckFailed("the bytes are not what they were before they were paged out")
            after = page_frames.frames(memory.address, SIZE)
        return sum(old != new for old, new in zip(before, after, strict=True))

    with zram_swap(64):
        unwired = moved()
        memory.prepare()
        try:
            wired = moved()
            frames = page_frames.frames(memory.address, SIZE)
            places = [at + step for at, size in memory.segments() for step in range(0, size, PAGE)]
            seen = bench.device_sees(memory, content)
        finally:
            memory.complete()
        again = moved()
    attest(
        PAGEABLE,
        asked="moves before prepare() and after complete(), never between",
        attested=f"pages moved: {unwired} before, {wired} while prepared, {again} after; {seen}",
        kept=unwired > 0 and again > 0 and wired == 0 and frames == places,
        reason=f"the frames are {frames[:3]}, the segments say {places[:3]}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise("kIOMemoryAutoPrepare")
def test_auto_prepare(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut | kIOMemoryPageable | kIOMemoryAutoPrepare, SIZE)
    identity = memory.getPreparationID()
    seen = bench.device_reads(memory, data.take(SIZE))
    attest(
        "kIOMemoryAutoPrepare",
        asked="pageable memory, prepared from the start",
        attested=f"preparation {identity}; {seen}; complete(): {code_of(memory.complete).name}",
        kept=identity > 0 and code_of(memory.complete) is IOReturn.kIOReturnNotReady,
    )


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.parametrize(
    ("options", "write", "promise"),
    [
        pytest.param(*case, marks=pytest.mark.promise(case[2]), id=case[2].split()[0])
        for case in (
            (kIODirectionOut, True, "kIODirectionOut denial"),
            (kIODirectionIn, False, "kIODirectionIn denial"),
        )
    ],
)
def test_the_direction_is_what_prepare_grants(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    options: IOOptions,
    write: bool,
    promise: str,
) -> None:
    """At every offset of the first and the last line, and as a whole; setDirection lifts it."""
    size = 5000
    memory = buffer(options, size)
    address, unit = memory.getPhysicalAddress(), bench.platform.protection
    inside = data.take(size)
    memory.writeBytes(0, inside)
    bench.load(inverted(inside))
    before = unit.fault_count
    places = [*edges(address, size)[0], *edges(address, size)[1]]
    with bench.device.expects(DmaReason.PROTECTION_DIRECTION):
        for place in places:
            record = bench.device.dma(place, 1, write_memory=write)
            if record.reason is not DmaReason.PROTECTION_DIRECTION or record.moved:
                raise CheckFailed(f"{'write' if write else 'read'} at {place:#x}: {record}")
        whole = bench.device.dma(address, size, write_memory=write)
    denied = unit.fault_count - before
    wrong = difference(inside, memory.readBytes(0, size))
    in_device = difference(inverted(inside), bench.stored(size))
    memory.setDirection(kIODirectionInOut)
    seen = bench.device_writes(memory, data.take(size))
    bench.device_reads(memory, data.take(size))
    attest(
        promise,
        asked=f"{size} bytes, the other direction: bytes at both ends, and all",
        attested=f"{denied} faults, the last {whole.reason.name}; as InOut: {seen}",
        kept=denied == len(places) + 1
        and whole.reason is DmaReason.PROTECTION_DIRECTION
        and not wrong
        and not in_device,
        reason=f"memory: {wrong or 'unchanged'}; device: {in_device or 'unchanged'}",
        evidence="refusal",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise(PAGEABLE)
def test_dma_without_prepare_is_denied(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """A driver that kept the addresses of a preparation that is over reaches nothing."""
    memory = buffer(kIODirectionInOut | kIOMemoryPageable, SIZE)
    memory.prepare()
    stale = memory.segments()
    seen = bench.device_writes(memory, data.take(SIZE))
    memory.complete()
    content = memory.readBytes(0, SIZE)
    reasons = set()
    for address, length in stale[:8]:
        for write in False, True:
            part, outside = min(length, PAGE), DmaReason.PROTECTION_OUTSIDE
            record = bench.refused_dma(outside, address, part, write_memory=write)
            reasons.add((record.reason, record.moved))
    wrong = difference(content, memory.readBytes(0, SIZE))
    attest(
        PAGEABLE,
        asked="DMA to where it was while prepared",
        attested=f"{', '.join(reason.name for reason, _ in reasons)}; before: {seen}",
        kept=reasons == {(DmaReason.PROTECTION_OUTSIDE, 0)} and not wrong,
        reason=f"{reasons}; {wrong}",
        evidence="refusal",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("release")
def test_dma_after_release_is_denied(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    with IOBufferMemoryDescriptor.withCapacity(PAGE, kIODirectionInOut) as memory:
        address = memory.getPhysicalAddress()
        seen = bench.device_writes(memory, data.take(PAGE))
    attest.released(memory)
    with bench.device.expects(DmaReason.PROTECTION_OUTSIDE, count=2):
        records = [bench.device.dma(address, 64, write_memory=write) for write in (False, True)]
    attest(
        "release",
        asked="DMA to a buffer that is released",
        attested=f"{', '.join(each.reason.name for each in records)}; before: {seen}",
        kept=all(
            each.reason is DmaReason.PROTECTION_OUTSIDE and not each.moved for each in records
        ),
        evidence="refusal",
    )


@pytest.mark.promise("prepare")
def test_nesting_and_ids(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """As in xnu's test: In without zero fill, In again, complete with valid data, complete.

    The id is the wiring's: it is the same throughout, and another buffer's is another one.
    """
    memory = buffer(kIODirectionIn, 8192)
    ids = [memory.getPreparationID()]
    memory.prepare(kIODirectionIn.direction, kIODirectionPrepareNoZeroFill)
    ids.append(memory.getPreparationID())
    memory.prepare(kIODirectionIn.direction)
    ids.append(memory.getPreparationID())
    seen = bench.device_writes(memory, data.take(8192))
    memory.complete(kIODirectionIn.direction, kIODirectionCompleteWithDataValid)
    memory.complete(kIODirectionIn.direction)
    past = code_of(memory.complete)
    ended = memory.getPreparationID()
    other = buffer(kIODirectionIn, 8192).getPreparationID()
    attest(
        "prepare",
        asked="nested twice, completed twice, and once too often",
        attested=f"ids {ids}, then {ended}, another buffer's {other}; once too often: "
        f"{past.name}; {seen}",
        kept=set(ids) == {ended}
        and ended > 0
        and other != ended
        and past is IOReturn.kIOReturnNotReady,
    )


@pytest.mark.promise("prepare")
def test_in_after_out_is_not_writable(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionOut, 4096)
    refused = code_of(memory.prepare, IODirection.kIODirectionIn)
    memory.prepare(IODirection.kIODirectionOut)
    memory.complete()
    seen = bench.device_reads(memory, data.take(4096))
    attest(
        "prepare",
        asked="prepared for Out, then for In",
        attested=f"{refused.name}; {seen}",
        kept=refused is IOReturn.kIOReturnNotWritable,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("prepare")
def test_to_phys_32(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    high = buffer(kIODirectionOut, 4096, pool="high")
    low = buffer(kIODirectionOut, 4096, pool="main")
    refused = code_of(high.prepare, None, kIODirectionPrepareToPhys32)
    low.prepare(None, kIODirectionPrepareToPhys32)
    seen = bench.device_reads(low, data.take(4096))
    low.complete()
    attest(
        "prepare",
        asked="kIODirectionPrepareToPhys32, above and below 4 GiB",
        attested=f"above: {refused.name}; below: {seen}",
        kept=refused is IOReturn.kIOReturnNoResources and seen.address < 1 << 32,
    )


@pytest.mark.promise("kIODirectionNone")
def test_none_then_set_direction(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """None lets devices read and write; setDirection narrows it, and not while it is prepared."""
    memory = buffer(kIODirectionNone, 4096)
    first = bench.device_reads(memory, data.take(4096))
    bench.device_writes(memory, data.take(4096))
    memory.setDirection(kIODirectionOut)
    stored = memory.getDirection()
    second = bench.device_reads(memory, data.take(4096))
    memory.prepare()
    busy = code_of(memory.setDirection, kIODirectionIn)
    memory.complete()
    attest(
        "kIODirectionNone",
        asked="both ways, then setDirection(Out)",
        attested=f"{first}; then {stored.name}, {second}; while prepared: {busy.name}",
        kept=stored is IODirection.kIODirectionOut and busy is IOReturn.kIOReturnBusy,
    )


@pytest.mark.promise("prepare")
def test_zero_length_is_safe(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut, 4096)
    memory.setLength(0)
    memory.prepare()
    nothing = memory.getPhysicalSegment(0), memory.segments(), memory.readBytes(0, 0)
    memory.complete()
    memory.setLength(4096)
    seen = bench.device_reads(memory, data.take(4096))
    attest(
        "prepare",
        asked="length 0: prepare, complete",
        attested=f"{nothing}; then {seen}",
        kept=nothing == ((0, 0), [], b""),
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise(PAGEABLE)
def test_memory_given_away_is_noticed(
    buffer: MakeBuffer, bench: DmaChecker, attest: Attest
) -> None:
    """complete() and a new prepare() may find other pages; nobody promises the old ones."""
    memory = buffer(kIODirectionIn | kIOMemoryPageable, PAGE)
    if memory.backing.mapping is None:
        raise CheckFailed("pageable memory of this task is not mapped")
    memory.prepare()
    first = memory.getPhysicalAddress()
    memory.complete()
    with pytest.raises(IONotReadyError):
        memory.getPhysicalAddress()
    memory.backing.mapping.advise(mmap.MADV_DONTNEED)
    memory.prepare()
    seen = bench.device_writes(memory, b"\x55\xaa" * (PAGE // 2))
    memory.complete()
    attest(
        PAGEABLE,
        asked="prepared twice",
        attested=f"first at {first:#x}; {seen}",
        kept=seen.address % PAGE == 0,
    )
