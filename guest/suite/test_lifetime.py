# SPDX-License-Identifier: Apache-2.0
"""Release, refusals, and what is not possible on Linux."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IOOptions,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackInnerCache,
    kIOMapInhibitCache,
    kIOMapPostedWrite,
    kIOMapRealTimeCache,
    kIOMapWriteThruCache,
    kIOMemoryClearEncrypt,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryPurgeable,
    kIOMemoryUseReserve,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns, Transferred
from dma_rehearsal.guest.testkit.buffers import free_sizes

pytestmark = pytest.mark.any_device

create = IOBufferMemoryDescriptor.inTaskWithOptions


@pytest.mark.promise("release")
@pytest.mark.parametrize("capacity", [1, 100, 4096, 1024001])
def test_release_gives_back_and_the_next_one_is_zeroed(
    bench: DmaChecker, data: Patterns, attest: Attest, capacity: int
) -> None:
    pool_registry.wake()
    before = free_sizes()
    capacity = bench.fits(capacity)
    dirty = data.take(capacity)
    with bench.make(kIODirectionInOut, capacity) as memory:
        first = bench.device_writes(memory, dirty)
        during = free_sizes()
    pool_registry.wake()
    with bench.make(kIODirectionInOut, capacity) as memory:
        second = bench.device_sees(memory, bytes(capacity))
    attest(
        "release",
        asked=f"{capacity} bytes back, and zeroed",
        attested=f"same place again: {first.address == second.address}, the device reads zeros",
        kept=free_sizes() == before and first.address == second.address,
        reason=f"free before {before}, during {during}, after {free_sizes()}",
    )


@pytest.mark.promise("release")
def test_release_in_any_order_leaves_one_run(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """Freed neighbours join when their rest is over: one as large as all fits where they were."""
    pool_registry.wake()
    before = free_sizes()
    pieces = [bench.make(kIODirectionIn, 256 << 10) for _ in range(8)]
    places = sorted(piece.getPhysicalAddress() for piece in pieces)
    for index in (3, 0, 7, 5, 1, 6, 2, 4):
        pieces[index].release()
    pool_registry.wake()
    size = 8 * (256 << 10)
    with bench.make(kIODirectionIn, size) as whole:
        seen = bench.device_writes(whole, data.take(size))
    attest(
        "release",
        asked="8 x 256 KiB freed out of order, then 2 MiB",
        attested=str(seen),
        kept=places[0] & -PAGE <= seen.address
        and seen.address + size <= places[-1] + size // 8 + PAGE
        and free_sizes() == before,
        reason=f"first freed at {places[0]:#x}, then {seen.address:#x}; free before {before}, "
        f"after {free_sizes()}",
    )


@pytest.mark.promise("release")
def test_release_with_a_live_view_is_refused(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    memory = bench.make(kIODirectionInOut, 4096)
    content = data.take(4096)
    view = memory.view()
    view[:] = content
    try:
        memory.release()
        said = "released"
    except IOBusyError as error:
        said = str(error)
    seen = bench.device_sees(memory, content)
    view.release()
    memory.release()
    attest(
        "release",
        asked="refused while a view lives",
        attested=f"kIOReturnBusy; {seen}",
        kept="memoryview" in said,
        reason=said,
    )


BAD = IOReturn.kIOReturnBadArgument
NO_MEMORY = IOReturn.kIOReturnNoMemory
REFUSED = [
    ("capacity", "capacity 0", kIODirectionOut, 0, 1, BAD),
    ("capacity", "capacity -1", kIODirectionOut, -1, 1, BAD),
    ("capacity", "capacity 2**64 - 1", kIODirectionOut, (1 << 64) - 1, 1, BAD),
    ("capacity", "capacity above the pool", kIODirectionOut, 1 << 30, 1, NO_MEMORY),
    ("alignment", "alignment 0", kIODirectionOut, 64, 0, BAD),
    ("alignment", "alignment 3", kIODirectionOut, 64, 3, BAD),
    ("alignment", "alignment -4096", kIODirectionOut, 64, -4096, BAD),
    ("options", "unknown bit 31", 0x8000_0001, 64, 1, BAD),
    (
        "kIOMemoryPurgeable",
        "Purgeable without Pageable",
        kIODirectionOut | kIOMemoryPurgeable,
        64,
        1,
        BAD,
    ),
    (
        "kIOMemoryPageable",
        "Contiguous with Pageable",
        kIODirectionOut | kIOMemoryPageable | kIOMemoryPhysicallyContiguous,
        64,
        1,
        BAD,
    ),
]


@pytest.mark.parametrize(
    ("promise", "asked", "options", "capacity", "alignment", "code"),
    [
        pytest.param(*case, marks=pytest.mark.promise(case[0]), id=case[1].replace(" ", "-"))
        for case in REFUSED
    ],
)
def test_refused_with_a_code(
    bench: DmaChecker,
    data: Patterns,
    attest: Attest,
    promise: str,
    asked: str,
    options: IOOptions | int,
    capacity: int,
    alignment: int,
    code: IOReturn,
) -> None:
    """A refusal takes nothing, and the device finds the next buffer as it must be."""
    before = free_sizes()
    try:
        create(current_task(), options, capacity, alignment).release()
        said: object = "made"
    except IOReturnError as error:
        said = error.code
    left = free_sizes()
    seen = device_finds_the_next_buffer_sound(bench, data)
    attest(
        promise,
        asked=f"{asked}: refused",
        attested=f"{getattr(said, 'name', said)}; the next buffer: {seen}",
        kept=said == code and left == before,
        reason=f"expected {code.name}; free before {before}, after {left}",
    )


def device_finds_the_next_buffer_sound(bench: DmaChecker, data: Patterns) -> Transferred:
    size = bench.fits(64)
    with bench.make(kIODirectionOut, size) as memory:
        return bench.device_reads(memory, data.take(size))


@pytest.mark.promise("options")
def test_two_cache_modes_are_refused_when_combined(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """Inhibit | WriteThru has the value of Copyback; a plain flag type would not notice."""
    try:
        said: object = kIOMapInhibitCache | kIOMapWriteThruCache
    except IOReturnError as error:
        said = error.code
    attest(
        "options",
        asked="kIOMapInhibitCache | kIOMapWriteThruCache: refused",
        attested=f"{getattr(said, 'name', said)}; the next buffer: "
        f"{device_finds_the_next_buffer_sound(bench, data)}",
        kept=said is IOReturn.kIOReturnBadArgument,
    )


UNSUPPORTED = {
    "kIOMemoryClearEncrypt": kIODirectionOut | kIOMemoryClearEncrypt,
    "kIOMemoryUseReserve": kIODirectionOut | kIOMemoryUseReserve,
    "kIOMapCopybackInnerCache": kIODirectionOut | kIOMapCopybackInnerCache,
    "kIOMapPostedWrite": kIODirectionOut | kIOMapPostedWrite,
    "kIOMapRealTimeCache": kIODirectionOut | kIOMapRealTimeCache,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.promise(name)) for name in UNSUPPORTED]
)
def test_not_possible_here_says_so(attest: Attest, name: str) -> None:
    try:
        create(current_task(), UNSUPPORTED[name], 64).release()
    except IOUnsupportedError as error:
        attest.unsupported(name, asked=name, code=error.code.name, reason=error.reason)
        return
    attest.broken(name, asked=name, attested="made", reason="accepted and ignored in silence")
