# SPDX-License-Identifier: Apache-2.0
"""setPurgeable: the states, and a purge by the kernel that costs no byte of the user's."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOReturn,
    PurgeableState,
    kIODirectionInOut,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.linux import page_frames
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns, Transferred
from dma_rehearsal.guest.testkit.buffers import code_of

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses"),  # pages are wherever the kernel finds them
]

PURGEABLE = "kIOMemoryPurgeable"
SIZE = 16 * PAGE
KEEP = PurgeableState.kIOMemoryPurgeableKeepCurrent
NON_VOLATILE = PurgeableState.kIOMemoryPurgeableNonVolatile
VOLATILE = PurgeableState.kIOMemoryPurgeableVolatile
EMPTY = PurgeableState.kIOMemoryPurgeableEmpty
OPTIONS = kIODirectionInOut | kIOMemoryPageable | kIOMemoryPurgeable


def purge(memory: IOBufferMemoryDescriptor, pages: range) -> None:
    """Have the kernel reclaim all reclaimable pages now."""
    for page in pages:
        virtual_memory.advise(memory.address + page * PAGE, PAGE, page_frames.MADV_PAGEOUT)


def device_finds(
    bench: DmaChecker, memory: IOBufferMemoryDescriptor, content: bytes
) -> Transferred:
    memory.prepare()
    try:
        return bench.device_sees(memory, content)
    finally:
        memory.complete()


@pytest.mark.promise(PURGEABLE)
def test_kept_when_the_kernel_did_not_want_it(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(OPTIONS, SIZE)
    content = data.take(SIZE)
    memory.writeBytes(0, content)
    states = [
        memory.setPurgeable(each) for each in (KEEP, VOLATILE, KEEP, VOLATILE, NON_VOLATILE, KEEP)
    ]
    seen = device_finds(bench, memory, content)
    attest(
        PURGEABLE,
        asked="volatile and back, without pressure",
        attested=f"old states {[state.name[18:] for state in states]}; {seen}",
        kept=states == [NON_VOLATILE, NON_VOLATILE, VOLATILE, VOLATILE, VOLATILE, NON_VOLATILE],
    )


@pytest.mark.promise(PURGEABLE)
@pytest.mark.parametrize("pages", [range(16), range(15, 16), range(3, 4)], ids=str)
@pytest.mark.parametrize("content", ["dense", "one byte a page", "zeros"])
def test_a_purge_reads_as_empty(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    pages: range,
    content: str,
) -> None:
    """One purged page of sixteen is enough; afterwards everything reads as zeros."""
    memory = buffer(OPTIONS, SIZE)
    if content == "dense":
        memory.writeBytes(0, data.take(SIZE))
    else:
        for page in range(SIZE // PAGE):
            memory.writeBytes(page * PAGE + 77, b"\x5a" if content == "one byte a page" else b"\0")
    memory.setPurgeable(VOLATILE)
    purge(memory, pages)
    peeked = memory.setPurgeable(KEEP)
    old = memory.setPurgeable(NON_VOLATILE)
    now = memory.setPurgeable(KEEP)
    seen = device_finds(bench, memory, bytes(SIZE))
    attest(
        PURGEABLE,
        asked=f"the kernel purges pages {pages.start} to {pages.stop - 1} ({content})",
        attested=f"peeked {peeked.name[18:]}, old {old.name[18:]}, now {now.name[18:]}; {seen}",
        kept=peeked is old is EMPTY and now is NON_VOLATILE,
    )


@pytest.mark.promise(PURGEABLE)
def test_emptied_by_hand(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Empty stays Empty when it is made volatile, and the memory is zeros."""
    memory = buffer(OPTIONS, SIZE)
    memory.writeBytes(0, data.take(SIZE))
    states = [memory.setPurgeable(each) for each in (EMPTY, VOLATILE, KEEP, NON_VOLATILE, KEEP)]
    seen = device_finds(bench, memory, bytes(SIZE))
    attest(
        PURGEABLE,
        asked="Empty, Volatile, NonVolatile",
        attested=f"old states {[state.name[18:] for state in states]}; {seen}",
        kept=states == [NON_VOLATILE, EMPTY, EMPTY, EMPTY, NON_VOLATILE],
    )


@pytest.mark.promise(PURGEABLE)
def test_refusals(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """Wired memory cannot be purged, volatile memory cannot be wired."""
    memory, wired = buffer(OPTIONS, SIZE), buffer(kIODirectionInOut, SIZE)
    memory.writeBytes(0, data.take(SIZE))
    unknown = code_of(memory.setPurgeable, 5), code_of(memory.setPurgeable, 0)
    not_purgeable = code_of(wired.setPurgeable, VOLATILE)
    memory.prepare()
    seen = bench.device_reads(memory, data.take(SIZE))
    while_wired = code_of(memory.setPurgeable, VOLATILE)
    memory.complete()
    memory.setPurgeable(VOLATILE)
    volatile = code_of(memory.prepare)
    memory.setPurgeable(NON_VOLATILE)
    bad = IOReturn.kIOReturnBadArgument
    attest(
        PURGEABLE,
        asked="unknown states, not purgeable, while wired, wired while volatile",
        attested=f"{unknown[0].name}, {not_purgeable.name}, {while_wired.name}, {volatile.name}; "
        f"{seen}",
        kept=unknown == (bad, bad)
        and not_purgeable is bad
        and while_wired is IOReturn.kIOReturnBusy
        and volatile is IOReturn.kIOReturnNotReady,
    )


@pytest.mark.promise(PURGEABLE)
def test_every_byte_is_the_users(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """No canary: contents with few or no bytes that are not zero come back as they were."""
    memory = buffer(OPTIONS, SIZE)
    content = bytearray(SIZE)
    content[PAGE : 2 * PAGE] = data.take(PAGE)
    content[2 * PAGE] = content[4 * PAGE - 1] = content[5 * PAGE + 9] = 1
    memory.writeBytes(0, bytes(content))
    memory.setPurgeable(VOLATILE)
    old = memory.setPurgeable(NON_VOLATILE)
    seen = device_finds(bench, memory, bytes(content))
    attest(
        PURGEABLE,
        asked="pages with 0, 1, 2 and 4096 bytes that are not zero",
        attested=f"{old.name[18:]}; {seen}",
        kept=old is VOLATILE,
    )
