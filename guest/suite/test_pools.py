# SPDX-License-Identifier: Apache-2.0
"""The pools: their abilities, their refusals with reasons, and fragmented memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IONoMemoryError,
    IOReturn,
    IOReturnError,
    current_task,
    kernel_task,
    kIODirectionInOut,
    kIOMapInhibitCache,
    kIOMemoryClearEncrypt,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryMapperNone,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryThreadSafe,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import HUGE_PAGES
from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.buffers import code_of, free_sizes

pytestmark = pytest.mark.any_device

MIB = 1 << 20
create = IOBufferMemoryDescriptor.inTaskWithOptions


def surplus_pages() -> int:
    """Return how many huge pages the kernel has made beyond its reserve."""
    return int((HUGE_PAGES / "surplus_hugepages").read_text())


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.kernel
@pytest.mark.promise("pool")
def test_pinned_pages(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Wired and scattered: the device finds every page where the segments say."""
    size = 100 * PAGE + 9
    memory = buffer(kIODirectionInOut, size, pool="pinned")
    segments = memory.segments()
    bench.device_reads(memory, data.take(size))
    seen = bench.device_writes(memory, data.take(size))
    attest(
        "pool",
        asked=f"pinned: {size} bytes",
        attested=f"{len(segments)} segments; {seen}",
        kept=sum(length for _, length in segments) == size,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=pytest.mark.promise(name), id=name)
        for name, option in (
            ("kIOMemoryPhysicallyContiguous", kIOMemoryPhysicallyContiguous),
            ("kIOMemoryHostPhysicallyContiguous", kIOMemoryHostPhysicallyContiguous),
        )
    ],
)
def test_huge_page_is_one_segment(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    request: pytest.FixtureRequest,
    option: int,
) -> None:
    size = 2 * MIB
    pool_registry.wake()  # a huge page of an earlier test may rest yet
    before = surplus_pages()  # a killed process's, while a function that was open then is
    memory = buffer(kIODirectionInOut | option, size, size, pool="hugetlb")
    address, length = memory.getPhysicalSegment()
    content = data.take(size)
    seen = bench.device_writes(memory, content)
    runs = bench.witness(memory)
    surplus = surplus_pages() - before
    memory.release()
    pool_registry.wake()
    left = surplus_pages() - before
    (promise,) = [mark.args[0] for mark in request.node.iter_markers("promise")]
    attest(
        promise,
        asked=f"{size} bytes from huge pages, aligned to as much",
        attested=f"one segment of {length} at {address:#x}, in {runs[0].page_size}-byte pages; "
        f"{seen}",
        kept=length == size
        and address % size == 0
        and [run.physical for run in runs] == [address]
        and runs[0].page_size == size
        and surplus == 1
        and left == 0,
        reason=f"huge pages: {surplus} while it lived, {left} afterwards",
    )


@contextmanager
def checkerboard(pool: str, piece: int) -> Iterator[int]:
    """Fill a pool with pieces and free every other one; yield how many bytes are free then."""
    with ExitStack() as stack:
        pieces = []
        while True:
            try:
                made = create(current_task(), kIODirectionInOut, piece, pool=pool)
            except IONoMemoryError:
                break
            pieces.append(stack.enter_context(made))
        pieces.sort(key=IOBufferMemoryDescriptor.getPhysicalAddress)
        for each in pieces[::2]:
            each.release()
        yield pool_registry.named(pool).free_size()


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("kIOMemoryPhysicallyContiguous")
def test_real_fragmentation(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """Half of the pool is free, in pieces: a longer run is refused, with numbers."""
    piece = 2 << 20
    before = pool_registry.named("main").free_size()
    with checkerboard("main", piece) as free:
        options = kIODirectionInOut | kIOMemoryPhysicallyContiguous
        try:
            create(current_task(), options, 2 * piece, pool="main").release()
            said, code, largest = "given", IOReturn.kIOReturnSuccess, 0
        except IONoMemoryError as error:
            said, code, largest = error.reason, error.code, error.largest
        with create(current_task(), options, piece, pool="main") as fits:
            seen = bench.device_writes(fits, data.take(piece))
    after = pool_registry.named("main").free_size()
    attest(
        "kIOMemoryPhysicallyContiguous",
        asked=f"{2 * piece} bytes, {free} free in runs of {piece}",
        attested=f"{code.name}, largest run {largest}; a piece of it: {seen}",
        kept=code is IOReturn.kIOReturnNoMemory
        and piece <= largest < 2 * piece
        and free >= before // 2 - piece
        and str(2 * piece) in said
        and str(largest) in said
        and after == before,
        reason=f"{said}; free before {before}, after {after}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("inTaskWithPhysicalMask")
@pytest.mark.parametrize(
    ("mask", "alignment"),
    [
        (0xFFFF_F000, PAGE),
        (0x00FF_FFFF, PAGE),
        (0x00FF_0000, 65536),
        (0xFFFF_FFFF_FFFF, PAGE),
        (0, 1),
    ],
    ids=hex,
)
def test_physical_mask(
    bench: DmaChecker, data: Patterns, attest: Attest, mask: int, alignment: int
) -> None:
    """The device finds the memory below the mask, aligned to its low zeros."""
    with IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
        current_task(), kIODirectionInOut, 10000, mask
    ) as memory:
        seen = bench.device_writes(memory, data.take(10000))
        last = seen.address + 9999
    attest(
        "inTaskWithPhysicalMask",
        asked=f"mask {mask:#x}",
        attested=f"{seen}; last byte at {last:#x}",
        kept=seen.address % alignment == 0 and (not mask or last <= mask | alignment - 1),
    )


@pytest.mark.promise("inTaskWithPhysicalMask")
def test_masks_that_cannot_be(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """As in xnu's test: 2^64 - 1 bytes fail; so do masks below every pool, and no masks."""
    make = IOBufferMemoryDescriptor.inTaskWithPhysicalMask
    huge = {
        code_of(make, task, options, (1 << 64) - 1, 0)
        for task in (kernel_task, current_task())
        for options in (0x20 | 2, 2)
    }
    (bad,) = huge if len(huge) == 1 else (IOReturn.kIOReturnSuccess,)
    negative = code_of(make, current_task(), 2, 4096, -1)
    holes = code_of(make, current_task(), 2, 4096, 0xF0FF_F000)
    nowhere = code_of(make, current_task(), 2, 4096, 0xFFFFF)
    seen = bench.device_reads(buffer(kIODirectionInOut, 64), data.take(64))
    attest(
        "inTaskWithPhysicalMask",
        asked="2^64 - 1 bytes; masks -1, 0xf0fff000 and 0xfffff",
        attested=f"{bad.name}, {negative.name}, {holes.name}, {nowhere.name}; then {seen}",
        kept=bad is negative is holes is IOReturn.kIOReturnBadArgument
        and nowhere is IOReturn.kIOReturnNoMemory,
    )


@pytest.mark.promise("pool")
def test_why_no_pool_can(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The error says of each pool why it cannot."""
    said = ""
    try:
        create(current_task(), kIODirectionInOut | kIOMapInhibitCache, 1 << 40).release()
    except IONoMemoryError as error:
        said = error.reason
    seen = bench.device_reads(buffer(kIODirectionInOut, 64), data.take(64))
    named = [name for name in pool_registry.known() if f"pool {name}: " in said]
    attest(
        "pool",
        asked="2^40 bytes, uncached",
        attested=f"reasons of {', '.join(named)}; then {seen}",
        kept=named == list(pool_registry.known()),
        reason=said or "given",
    )


@pytest.mark.promise("kIOMemoryMapperNone")
def test_mapper_none(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """Without an IOMMU the bus address is the physical one, with the flag and without."""
    size = 20000
    memory = buffer(kIODirectionInOut | kIOMemoryMapperNone | kIOMapInhibitCache, size)
    seen = bench.device_writes(memory, data.take(size))
    physical = bench.witness(memory)[0].physical
    attest(
        "kIOMemoryMapperNone",
        asked=f"{size} bytes, InhibitCache",
        attested=f"physical {physical:#x}; {seen}",
        kept=physical == seen.address and memory.cache_mode.name == "INHIBIT",
    )


@pytest.mark.promise("kIOMemoryThreadSafe")
def test_thread_safe(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """Four threads prepare, complete, append and set lengths; nothing is lost or counted twice."""
    import threading

    memory = buffer(kIODirectionInOut | kIOMemoryThreadSafe, 4096)
    memory.setLength(0)
    content = data.take(1024)
    errors: list[BaseException] = []

    def work(part: int) -> None:
        try:
            processors.place(part)
            for index in range(64):
                memory.prepare()
                memory.appendBytes(content[part * 256 + 4 * index : part * 256 + 4 * index + 4])
                memory.complete()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    length, open_ones = memory.getLength(), memory.prepared
    stored = memory.readBytes(0, length)
    words = sorted(stored[at : at + 4] for at in range(0, length, 4))
    wanted = sorted(content[at : at + 4] for at in range(0, 1024, 4))
    memory.setLength(4096)
    seen = bench.device_sees(memory, stored.ljust(4096, b"\0"))
    attest(
        "kIOMemoryThreadSafe",
        asked="4 threads, 64 rounds each",
        attested=f"{length} bytes appended, {open_ones} preparation open; {seen}",
        kept=not errors and words == wanted and open_ones == 1,
        reason=f"{errors}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("alignment")
def test_alignment_up_to_the_pools_size(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """The largest alignment that a pool has room for works, twice as much is refused."""
    pool = pool_registry.named("main")
    largest = 0
    alignment = PAGE
    while alignment <= pool.size:
        try:
            with create(current_task(), kIODirectionInOut, 64, alignment, pool="main") as memory:
                seen = bench.device_reads(memory, data.take(64))
                if seen.address % alignment == 0:
                    largest = alignment
        except IONoMemoryError:
            break
        alignment *= 2
    try:
        create(current_task(), kIODirectionInOut, 64, 2 * pool.size, pool="main").release()
        above = IOReturn.kIOReturnSuccess
    except IOReturnError as error:
        above = error.code
    attest(
        "alignment",
        asked=f"doubled from {PAGE} on",
        attested=f"up to {largest}, pool of {pool.size}; twice that: {above.name}; {seen}",
        kept=largest >= pool.size // 4 and above is IOReturn.kIOReturnBadArgument,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("kIOMemoryClearEncrypt")
def test_clear_encrypt_takes_nothing(bench: DmaChecker, attest: Attest, data: Patterns) -> None:
    before = free_sizes()
    refused = code_of(create, current_task(), kIODirectionInOut | kIOMemoryClearEncrypt, 64)
    after = free_sizes()
    with create(current_task(), kIODirectionInOut, 64) as memory:
        seen = bench.device_reads(memory, data.take(64))
    attest(
        "kIOMemoryClearEncrypt",
        asked="refused, and nothing taken",
        attested=f"{refused.name}; the next buffer: {seen}",
        kept=refused is IOReturn.kIOReturnUnsupported and before == after,
    )
