# SPDX-License-Identifier: Apache-2.0
"""Reasons that hold a buffer at its release, and places where the allocator must not be called."""

from __future__ import annotations

import asyncio
import gc
import signal
import warnings

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.exerciser_features import held_dma
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOReturn,
    IOReturnError,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapUnique,
)
from dma_rehearsal.guest.iobuffer.base import interfaces, provenance
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Pool
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.buffers import code_of

pytestmark = pytest.mark.any_device

create = IOBufferMemoryDescriptor.inTaskWithOptions


@pytest.mark.unlimited("addresses", "segments")
@pytest.mark.promise("release")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_refused_while_a_dma_is_in_flight(
    bench: DmaChecker, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    """HOLD keeps a DMA in flight: neither release nor the last complete takes its memory away."""
    memory = create(current_task(), kIODirectionInOut, PAGE)
    inside, outside = data.take(PAGE), data.take(PAGE)
    bench.load(inside)
    memory.writeBytes(0, outside)
    with held_dma(
        bench.device, memory.getPhysicalAddress(), PAGE, write_memory=write_memory
    ) as dma:
        dma.step(100)
        try:
            memory.release()
            raise CheckFailed("release() gave away memory that a DMA in flight still reaches")
        except IOReturnError as error:
            said, code = error.reason, error.code
        turned = code_of(memory.setDirection, 1)
        dma.step(PAGE)
        record = dma.record()
    wrong = difference(inside if write_memory else outside, memory.readBytes(0, PAGE))
    memory.release()
    attest(
        "release",
        asked="refused while DMA is active",
        attested=f"{code.name}, setDirection {turned.name}; {record.moved} bytes in the end",
        kept=code is turned is IOReturn.kIOReturnBusy
        and f"{PAGE - 100} of {PAGE} bytes" in said
        and not wrong,
        reason=f"{said}; {wrong}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise("prepare")
def test_last_complete_is_refused_while_a_dma_is_in_flight(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut | 0x20, PAGE)
    content = data.take(PAGE)
    bench.load(content)
    memory.prepare()
    memory.prepare()
    with held_dma(bench.device, memory.getPhysicalAddress(), PAGE, write_memory=True) as dma:
        dma.step(100)
        first, last = code_of(memory.complete), code_of(memory.complete)
        if last is IOReturn.kIOReturnSuccess:
            raise CheckFailed("the last complete() let go of memory that a DMA still reaches")
        dma.step(PAGE)
        record = dma.record()
    wrong = difference(content, memory.readBytes(0, PAGE))
    memory.complete()
    attest(
        "prepare",
        asked="two preparations; complete() twice with a DMA in flight",
        attested=f"{first.name}, {last.name}; {record.moved} bytes in the end",
        kept=first is IOReturn.kIOReturnSuccess and last is IOReturn.kIOReturnBusy and not wrong,
        reason=wrong,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("release")
def test_refused_while_prepared(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    memory = create(current_task(), kIODirectionInOut, PAGE)
    memory.prepare()
    seen = bench.device_reads(memory, data.take(PAGE))
    busy = code_of(memory.release)
    memory.complete()
    memory.release()
    twice = code_of(memory.release)
    with memory_in_a_with() as inner:
        inner.release()
    attest(
        "release",
        asked="refused while prepared; a second time; in a with",
        attested=f"{busy.name}; {twice.name}; {seen}",
        kept=busy is IOReturn.kIOReturnBusy and twice is IOReturn.kIOReturnNotAttached,
    )


def memory_in_a_with() -> IOBufferMemoryDescriptor:
    return create(current_task(), kIODirectionInOut, PAGE)


@pytest.mark.promise("release")
def test_a_dropped_buffer_warns_and_comes_back(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    pool = pool_registry.named("main")
    before = pool.free_size()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        create(current_task(), kIODirectionInOut, 1 << 20)
        gc.collect()
        categories = [each.category for each in told]
    names = provenance.dropped(take=True)  # else it fails this test
    after = pool.free_size()
    seen = bench.device_reads(buffer(kIODirectionInOut, 1 << 20), data.take(1 << 20))
    attest(
        "release",
        asked="dropped without release()",
        attested=f"{', '.join(each.__name__ for each in categories)}; {seen}",
        kept=categories == [ResourceWarning] and len(names) == 1 and after == before,
        reason=f"free before {before}, after {after}; {names}",
    )


class Watching:
    """An access control that notes how much of a pool is free when it takes a grant back."""

    def __init__(self, inner: interfaces.AccessControl, pool: Pool) -> None:
        self._inner, self._pool = inner, pool
        self.free: list[int] = []
        self.reclaim = inner.reclaim
        self.grant = inner.grant

    def withdraw(self, grant: object) -> None:
        self.free.append(self._pool.free_size())
        self._inner.withdraw(grant)


@pytest.mark.any_device
@pytest.mark.unlimited("addresses", "segments")  # 1 MiB of the main pool
@pytest.mark.promise("release")
def test_devices_lose_memory_before_it_is_free(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """Else whoever gets it next is open to a device, for as long as the withdrawal takes."""
    pool = pool_registry.named("main")
    control, dma_platform.access_control = dma_platform.access_control, None
    if control is None:
        raise CheckFailed("there is no access control")
    watching = Watching(control, pool)
    dma_platform.access_control = watching
    try:
        memory = create(current_task(), kIODirectionInOut, 1 << 20)
        seen = bench.device_writes(memory, data.take(1 << 20))
        taken, address = pool.free_size(), memory.getPhysicalAddress()
        memory.release()
    finally:
        dma_platform.access_control = control
    attest.released(memory)
    after = bench.refused_dma(DmaReason.PROTECTION_OUTSIDE, address, PAGE, write_memory=False)
    attest(
        "release",
        asked="the grant goes first, then the memory",
        attested=f"free at the withdrawal {watching.free}, before release {taken}; {seen}; DMA "
        f"afterwards: {after.reason.name}",
        kept=watching.free == [taken] and after.reason is DmaReason.PROTECTION_OUTSIDE,
        reason=f"memory was free, {watching.free} bytes, while devices could still reach it",
        evidence="refusal",
    )


@pytest.mark.promise("release")
@pytest.mark.parametrize("options", [kIOMapAnywhere, kIOMapAnywhere | kIOMapUnique], ids=str)
def test_a_mappings_view_holds_the_buffer(
    bench: DmaChecker, data: Patterns, attest: Attest, options: int
) -> None:
    """A forgotten mapping's view: nobody else may get the memory that it looks at."""
    memory = bench.make(kIODirectionInOut, 64)
    content = data.take(64)
    view = memory.createMappingInTask(current_task(), 0, options).view()
    busy = code_of(memory.release)
    if busy is IOReturn.kIOReturnSuccess:
        raise CheckFailed("release() gave away memory that a mapping's view still looks at")
    seen = bench.device_writes(memory, content)
    wrong = difference(content, bytes(view))
    with pytest.warns(ResourceWarning, match="was not unmapped"):
        del view
    memory.release()
    attest(
        "release",
        asked="refused while a view of a forgotten mapping lives",
        attested=f"{busy.name}; {seen}",
        kept=busy is IOReturn.kIOReturnBusy and not wrong,
        reason=wrong,
    )


@pytest.mark.promise("may block")
def test_not_in_a_signal_handler(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    codes: list[IOReturn] = []

    def handler(_number: int, _frame: object) -> None:
        codes.append(code_of(create, current_task(), kIODirectionInOut, 64))

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, old)
    seen = bench.device_reads(buffer(kIODirectionInOut, 64), data.take(64))
    attest(
        "may block",
        asked="in a signal handler",
        attested=f"{codes[0].name if codes else 'the handler did not run'}; outside: {seen}",
        kept=codes == [IOReturn.kIOReturnNotPermitted],
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("may block")
def test_not_on_a_running_loop(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    async def on_the_loop() -> tuple[IOReturn, IOBufferMemoryDescriptor]:
        refused = code_of(create, current_task(), kIODirectionInOut, 64)
        made = await IOBufferMemoryDescriptor.inTaskWithOptionsAsync(
            current_task(), kIODirectionInOut, 64
        )
        return refused, made

    refused, memory = asyncio.run(on_the_loop())
    with memory:
        seen = bench.device_reads(memory, data.take(64))
    attest(
        "may block",
        asked="on a running asyncio loop, and by its Async variant",
        attested=f"{refused.name}; {seen}",
        kept=refused is IOReturn.kIOReturnNotPermitted,
    )
