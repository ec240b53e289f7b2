# SPDX-License-Identifier: Apache-2.0
"""Memory has one owner, who alone decides what devices may do with it, whoever else maps it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOReturn,
    TaskPort,
    current_task,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMemoryKernelUserShared,
    task_of,
)
from dma_rehearsal.guest.iobuffer.os import port_messages
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    NonCoherent,
    OtherProcess,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.buffers import code_of
from dma_rehearsal.guest.testkit.other_process import Ask

pytestmark = [pytest.mark.kernel, pytest.mark.any_device]

SIZE, PART = 10000, 64
SHARED = "kIOMemoryKernelUserShared"
WRONG_WAY, OUTSIDE = DmaReason.PROTECTION_DIRECTION, DmaReason.PROTECTION_OUTSIDE


def mapper(ask: Ask) -> Iterator[object]:
    """In the other process: map what is asked for, and say what is there."""
    import ctypes

    with TaskPort() as port:
        yield port.handle
        while (address := ask()) is not None:
            yield ctypes.string_at(address, SIZE)


def taker(ask: Ask) -> Iterator[object]:
    """In the other process: take a buffer, and call what is asked for."""
    with TaskPort() as port:
        yield port.handle
        ask()
        memory = port.receive(timeout=30)
        yield None
        while (call := ask()) is not None:
            yield code_of(getattr(memory, call[0]), *call[1:])


def is_mapped(other: OtherProcess, address: int) -> bool:
    lines = Path(f"/proc/{other.pid}/maps").read_text().splitlines()
    return any(line.startswith(f"{address & -PAGE:x}-") for line in lines)


def told(other: OtherProcess, *call: object) -> IOReturn:
    """Have the other process make a call; return its code."""
    other.tell(call)
    return IOReturn(other.hear())


@pytest.mark.promise(SHARED)
def test_who_maps_grants_nothing(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The owner takes the device's right to write: no mapping elsewhere gives it back."""
    memory = buffer(kIODirectionInOut | kIOMemoryKernelUserShared, SIZE)
    address = memory.getPhysicalAddress()
    with OtherProcess(mapper) as other:
        mapped = memory.createMappingInTask(task_of(other.hear()))
        content = data.take(SIZE)
        before = bench.device_writes(memory, content)
        other.tell(mapped.getVirtualAddress())
        there = difference(content, other.hear())
        memory.setDirection(kIODirectionOut)
        refused = bench.refused_dma(WRONG_WAY, address, PART, write_memory=True)
        after = bench.device_sees(memory, content)
        mapped.unmap()
    attest(
        SHARED,
        asked="setDirection(Out) while another process maps it",
        attested=f"before: {before}; then a write: {refused.reason.name}, and {after}",
        kept=not there and refused.reason is WRONG_WAY,
        reason=there,
        evidence="refusal",
    )


@pytest.mark.promise("release")
def test_unmap_waits_until_it_is_unmapped(
    bench: DmaChecker, data: Patterns, attest: Attest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped task still maps it: unmap() says so, and release() refuses."""
    memory = bench.make(kIODirectionInOut | kIOMemoryKernelUserShared, SIZE)
    seen = bench.device_writes(memory, data.take(SIZE))
    with OtherProcess(mapper) as other:
        mapped = memory.createMappingInTask(task_of(other.hear()))
        address = mapped.getVirtualAddress()
        other.stop()
        with monkeypatch.context() as patched:
            patched.setattr(port_messages, "PATIENCE", 0.3)
            stopped = code_of(mapped.unmap)
        still = is_mapped(other, address)
        if stopped is IOReturn.kIOReturnSuccess and still:
            raise CheckFailed("unmap() has returned, and the memory is mapped in the other task")
        busy = code_of(memory.release)
        other.go_on()
        mapped.unmap()
        gone = not is_mapped(other, address)
    memory.release()
    attest.released(memory)
    refused = bench.refused_dma(OUTSIDE, memory.last_segments[0][0], PART, write_memory=True)
    attest(
        "release",
        asked="unmap() in another task, then release()",
        attested=f"{seen}; the task stopped: {stopped.name}, release(): {busy.name}; then unmapped "
        f"there: {gone}; DMA afterwards: {refused.reason.name}",
        kept=stopped is IOReturn.kIOReturnNotAttached
        and busy is IOReturn.kIOReturnBusy
        and still
        and gone,
        evidence="refusal",
    )


@pytest.mark.promise("inTask")
def test_the_maker_has_the_say_until_its_release(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Then the task owns it. Each time a device may do only what the owner says."""
    with OtherProcess(taker) as other:
        memory = buffer(kIODirectionInOut, SIZE, task=task_of(other.hear()))
        other.tell()
        other.hear()
        address, content = memory.getPhysicalAddress(), data.take(SIZE)
        before = bench.device_writes(memory, content)
        not_yet = told(other, "prepare"), told(other, "setDirection", 3)
        memory.setDirection(kIODirectionOut)
        made_out = bench.refused_dma(WRONG_WAY, address, PART, write_memory=True)
        memory.release()
        taken_over = bench.refused_dma(WRONG_WAY, address, PART, write_memory=True)
        read = bench.dma(address, PART, write_memory=False)
        by_then = told(other, "setDirection", 3)
        written = bench.dma(address, PART, write_memory=True)
        told(other, "release")
        after = bench.refused_dma(OUTSIDE, address, PART, write_memory=False)
    attest(
        "inTask",
        asked="the maker says Out, and releases; the task says InOut, and releases",
        attested=f"{before}; the task before: {not_yet[0].name}; Out: {made_out.reason.name}; "
        f"released: {taken_over.reason.name}, {read.moved} bytes read; the task's InOut: "
        f"{written.moved} bytes written; released there: {after.reason.name}",
        kept=set(not_yet) == {IOReturn.kIOReturnBusy} and by_then is IOReturn.kIOReturnSuccess,
        reason=f"the task's calls: {not_yet[0].name}, {not_yet[1].name}, then {by_then.name}",
        evidence="refusal",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("inTask")
def test_a_killed_maker_has_no_say(bench: DmaChecker, attest: Attest) -> None:
    """Its preparations end with it; the task keeps the rights that its buffer was made with."""
    with TaskPort() as port:
        handle = port.handle

        def maker(ask: Ask) -> Iterator[object]:
            made = IOBufferMemoryDescriptor.inTaskWithOptions(
                task_of(handle), kIODirectionInOut, SIZE
            )
            made.prepare()
            yield None
            ask()
            made.complete()
            made.setDirection(kIODirectionOut)
            yield None
            ask()

        with OtherProcess(maker) as other:
            other.hear()
            memory = port.receive(timeout=30)
            address = memory.getPhysicalAddress()
            before = bench.dma(address, PART, write_memory=True)
            other.tell()
            other.hear()
            other.kill()
        direction = memory.getDirection()
        left = bench.platform.protection.withdraw_dead()
        refused = bench.refused_dma(WRONG_WAY, address, PART, write_memory=True)
        read = bench.dma(address, PART, write_memory=False)
        memory.release()
        after = bench.refused_dma(OUTSIDE, address, PART, write_memory=False)
    attest(
        "inTask",
        asked="a maker that has said Out is killed",
        attested=f"{before.moved} bytes written before; then {direction.name}, a write: "
        f"{refused.reason.name}, {read.moved} bytes read; {left} grants of the dead; released: "
        f"{after.reason.name}",
        kept=left == 0,
        evidence="refusal",
    )


@pytest.mark.promise("release")
def test_a_failed_withdrawal_is_an_error(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """No file descriptor is left for the platform's lock: the device still reaches the memory."""
    memory = bench.make(kIODirectionInOut, SIZE)
    content = data.take(SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        refused = code_of(memory.release)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if refused is IOReturn.kIOReturnSuccess:
        raise CheckFailed("release() has succeeded, and the grant could not be withdrawn")
    seen = bench.device_writes(memory, content)
    address = memory.getPhysicalAddress()
    memory.release()
    attest.released(memory)
    after = bench.refused_dma(OUTSIDE, address, PART, write_memory=False)
    attest(
        "release",
        asked="while no file can be opened, then again",
        attested=f"{refused.name}, and the device reaches it: {seen}; then {after.reason.name}",
        kept=refused is IOReturn.kIOReturnNoResources,
        evidence="refusal",
    )


@pytest.mark.promise("processes")
def test_a_child_counts_its_own_grants(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The parent's grants stay the parent's; those of the dead process are taken back."""

    def reclaimer(ask: Ask) -> Iterator[object]:
        ask()
        # Memory that others can have is asked for page by page: the grants of the dead go first.
        IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionInOut | kIOMemoryKernelUserShared, PART
        ).release()
        yield bench.platform.protection.withdraw_dead()

    def granter(ask: Ask) -> Iterator[object]:
        made = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionInOut, PART)
        yield made.getPhysicalAddress()
        ask()

    memory = buffer(kIODirectionInOut, SIZE)
    spare = bench.make(kIODirectionInOut, PART)
    with OtherProcess(reclaimer) as child, OtherProcess(granter) as other:
        other.hear()
        spare.release()  # as many grants as before, but for whose they are
        other.kill()
        child.tell()
        left = child.hear()
    seen = bench.device_writes(memory, data.take(SIZE))
    attest(
        "processes",
        asked="a forked child reclaims after its parent's release and another one's death",
        attested=f"{left} grants of the dead; the parent's: {seen}",
        kept=left == 0,
    )


@pytest.mark.promise("cache maintenance")
def test_the_owner_alone_tracks_it(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """First its maker, though only the task maps it; then the task, which owns the buffer."""
    with OtherProcess(taker) as other:
        memory = noncoherent.buffer(kIODirectionOut, PART, task=task_of(other.hear()))
        other.tell()
        other.hear()
        first, second = data.take(PART), data.take(PART)
        memory.writeBytes(0, first)
        not_its_own = told(other, "sync_for_device")
        memory.sync_for_device()
        memory.writeBytes(0, second)
        stale = noncoherent.reads(memory, 0, PART) == first
        memory.sync_for_device()
        fresh = noncoherent.reads(memory, 0, PART) == second
        memory.release()
        by_then = told(other, "sync_for_device")
        told(other, "release")
    attest(
        "cache maintenance",
        asked="a buffer in another task: the maker syncs; released, the task does",
        attested=f"without a sync old bytes: {stale}, with it new ones: {fresh}; the task's syncs: "
        f"{not_its_own.name}, {by_then.name}",
        kept=stale
        and fresh
        and not_its_own is IOReturn.kIOReturnNotReady
        and by_then is IOReturn.kIOReturnSuccess,
        evidence="cache",
    )
