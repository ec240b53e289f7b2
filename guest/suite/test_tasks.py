# SPDX-License-Identifier: Apache-2.0
"""inTask and sharing: the kernel's memory, another process's, and both at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import WitnessStatus
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IOOptions,
    TaskPort,
    current_task,
    kernel_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapReadOnly,
    kIOMapUnique,
    kIOMapWriteCombineCache,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
    task_of,
)
from dma_rehearsal.guest.iobuffer.os.driver import Driver
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    OtherProcess,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.board import EFFECTIVE, described
from dma_rehearsal.guest.testkit.buffers import free_sizes
from dma_rehearsal.guest.testkit.other_process import Ask, owner_of_buffers

pytestmark = [pytest.mark.kernel, pytest.mark.any_device]

SIZE = 10000
SHARED = "kIOMemoryKernelUserShared"
MODES = [mode << 8 for mode in EFFECTIVE]
MODE_NAMES = [mode.name for mode in EFFECTIVE]


@pytest.mark.promise("inTask")
@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
def test_kernel_task(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: int
) -> None:
    """Mapped by the kernel alone, in its mode, and not by any process; the device reaches it."""
    memory = buffer(IOOptions.of(kIODirectionInOut | mode), SIZE, task=kernel_task)
    seen = bench.device_reads(memory, data.take(SIZE))
    written = data.take(SIZE)
    bench.device_writes(memory, written)
    window = memory.createMappingInTask(kernel_task)
    kernel = memory.kernel_map
    if kernel is None:
        raise CheckFailed("the kernel has not mapped a buffer of kernel_task")
    report = bench.platform.witness(kernel.root, window.getVirtualAddress(), SIZE, kernel.levels)
    types = sorted({run.effective.name for run in report.runs})
    wanted = EFFECTIVE[memory.cache_mode].name
    physical = report.runs[0].physical if report.runs else 0
    user = any(run.user for run in report.runs)
    window.unmap()
    mapped = memory.address
    with memory.createMappingInTask(current_task()) as late, late.view() as view:
        wrong = difference(written, bytes(view))
    attest(
        "inTask",
        asked=f"kernel_task, {wanted}",
        attested=f"kernel {'+'.join(types)} at {physical:#x}; {seen}; in no process: {not mapped}",
        kept=report.status is WitnessStatus.OK
        and types == [wanted]
        and physical == seen.address
        and not mapped
        and not user
        and not wrong,
        reason=f"witness: {report.status.name}, {described(list(report.runs))}; a later mapping "
        f"of this process: {wrong or 'the right bytes'}",
    )


@pytest.mark.promise(SHARED)
@pytest.mark.parametrize("mode", MODES, ids=MODE_NAMES)
def test_kernel_and_process_share(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: int
) -> None:
    memory = buffer(IOOptions.of(kIODirectionInOut | kIOMemoryKernelUserShared | mode), SIZE)
    kernel = memory.kernel_map
    if kernel is None:
        raise CheckFailed("the kernel has not mapped a shared buffer")
    stored = data.take(SIZE)
    kernel.write(0, stored)
    with memory.view() as view:
        in_process = difference(stored, bytes(view))
    seen = bench.device_sees(memory, stored)
    written = data.take(SIZE)
    bench.device_writes(memory, written)
    in_kernel = difference(written, kernel.read(0, SIZE))
    runs = bench.witness(memory)
    report = bench.platform.witness(kernel.root, kernel.address, SIZE, kernel.levels)
    types = {run.effective for run in (*runs, *report.runs)}
    attest(
        SHARED,
        asked=f"{memory.cache_mode.name}: kernel, process and device",
        attested=f"{'+'.join(sorted(each.name for each in types))}; {seen}",
        kept=not in_process and not in_kernel and types == {EFFECTIVE[memory.cache_mode]},
        reason=f"process: {in_process or 'right'}; kernel: {in_kernel or 'right'}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise(SHARED)
def test_pageable_and_shared(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The kernel maps pageable memory while it is prepared."""
    memory = buffer(kIODirectionInOut | kIOMemoryKernelUserShared | kIOMemoryPageable, SIZE)
    before = memory.kernel_map
    memory.prepare()
    kernel = memory.kernel_map
    if kernel is None:
        raise CheckFailed("the kernel has not mapped a shared buffer that is prepared")
    stored = data.take(SIZE)
    kernel.write(0, stored)
    seen = bench.device_sees(memory, stored)
    wrong = difference(stored, memory.readBytes(0, SIZE))
    memory.complete()
    attest(
        SHARED,
        asked="pageable: mapped by the kernel while prepared",
        attested=f"{seen}",
        kept=before is None and memory.kernel_map is None and not wrong,
        reason=wrong or "a kernel mapping without prepare()",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("createMappingInTask")
@pytest.mark.parametrize("kind", ["wired", "pageable"])
def test_a_mapping_in_the_kernel_lasts_until_its_unmap(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """Also of a buffer that is not shared, and after complete() of pageable memory."""
    pageable = int(kIOMemoryPageable) if kind == "pageable" else 0
    memory = buffer(kIODirectionInOut | pageable, SIZE)
    memory.prepare()
    window = memory.createMappingInTask(kernel_task)
    place, entry = window.getVirtualAddress(), bench.driver.query(memory.address)
    seen = bench.device_reads(memory, data.take(SIZE))
    ours = [run.physical for run in bench.witness(memory)]
    memory.complete()

    def mapped() -> tuple[WitnessStatus, list[int]]:
        found = bench.platform.witness(entry.root, place, SIZE, entry.levels)
        return found.status, [run.physical for run in found.runs]

    status, kernels = mapped()
    window.unmap()
    after, _ = mapped()
    attest(
        "createMappingInTask",
        asked=f"{kind}, mapped in kernel_task, over a complete()",
        attested=f"the kernel's page tables: {status.name}, the same pages: {kernels == ours}; "
        f"after unmap(): {after.name}; {seen}",
        kept=status is WitnessStatus.OK and kernels == ours and after is WitnessStatus.NOT_PRESENT,
        reason=f"physical runs of the process {[hex(each) for each in ours]}, of the kernel "
        f"{[hex(each) for each in kernels]}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("inTask")
@pytest.mark.parametrize("kind", ["copyback", "write-combined", "pageable"])
def test_another_process(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """The buffer is mapped there; both processes and the device see the same bytes."""
    options = {
        "copyback": IOOptions.of(kIODirectionInOut),
        "write-combined": kIODirectionInOut | kIOMapWriteCombineCache,
        "pageable": kIODirectionInOut | kIOMemoryPageable,
    }[kind]
    before = free_sizes()
    with OtherProcess(owner_of_buffers) as other:
        task = task_of(other.hear())
        memory = buffer(options, SIZE, task=task)
        other.tell("receive")
        address = other.hear()
        memory.prepare()
        stored = data.take(SIZE)
        seen = bench.device_reads(memory, stored)
        other.tell("read")
        there = difference(stored, other.hear())
        other.tell("write")
        answer = data.take(SIZE)
        other.tell(answer)
        other.hear()
        back = bench.device_sees(memory, answer)
        memory.complete()
        # We let go; the other one still has the memory, and it is nobody else's.
        memory.release()
        held = free_sizes()
        other.tell("read")
        kept_bytes = difference(answer, other.hear())
        other.tell("release")
        other.hear()
        after = free_sizes()
    attest(
        "inTask",
        asked=f"another process, {kind}",
        attested=f"mapped there at {address:#x}; {seen}; stored there: {back}",
        kept=not there
        and not kept_bytes
        and address > 0
        and after == before
        and (held != before or kind == "pageable"),
        reason=f"there: {there or 'right'}; after our release: {kept_bytes or 'right'}; free "
        f"before {before}, held by the other {held}, after {after}",
    )


@pytest.mark.promise("inTask")
def test_death_of_the_task(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The task dies; the maker's memory stays, and comes back when the maker lets go."""
    before = free_sizes()
    with OtherProcess(owner_of_buffers) as other:
        task = task_of(other.hear())
        memory = buffer(IOOptions.of(kIODirectionInOut), SIZE, task=task)
        other.tell("receive")
        other.hear()
        other.kill()
        held = free_sizes()
        seen = bench.device_writes(memory, data.take(SIZE))
        memory.release()
        after = free_sizes()
    attest(
        "inTask",
        asked="the task dies, and its buffer is used on",
        attested=f"{seen}; free {before['main']}, held {held['main']}, after {after['main']}",
        kept=after == before != held,
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("inTask")
def test_death_of_the_maker(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """The maker dies; the task's buffer stays, and comes back when the task releases it."""
    before = free_sizes()
    with TaskPort() as port:
        handle = port.handle

        def maker(_ask: Ask) -> Iterator[object]:
            made = IOBufferMemoryDescriptor.inTaskWithOptions(
                task_of(handle), kIODirectionInOut, SIZE
            )
            yield made.getPhysicalAddress()
            _ask()

        with OtherProcess(maker) as other:
            place = other.hear()
            memory = port.receive(timeout=30)
            other.kill()
        held = free_sizes()
        same = memory.getPhysicalAddress() == place
        seen = bench.device_writes(memory, data.take(SIZE))
        memory.release()
    after = free_sizes()
    attest(
        "inTask",
        asked="the maker dies, and the task uses its buffer on",
        attested=f"{seen}; free {before['main']}, held {held['main']}, after {after['main']}",
        kept=same and after == before != held,
    )


@pytest.mark.promise(SHARED)
def test_mapped_by_several_processes(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """createMappingInTask maps one buffer in two other processes, and unmaps it there."""
    memory = buffer(kIODirectionInOut | kIOMemoryKernelUserShared, SIZE)
    content = data.take(SIZE)
    seen = bench.device_reads(memory, content)

    def reader(ask: Ask) -> Iterator[object]:
        import ctypes

        with TaskPort() as port:
            yield port.handle
            while (address := ask()) is not None:
                yield ctypes.string_at(address, SIZE)

    wrong = []
    with OtherProcess(reader) as one, OtherProcess(reader) as two:
        maps = []
        for other in one, two:
            task = task_of(other.hear())
            maps.append(memory.createMappingInTask(task, 0, kIOMapAnywhere | kIOMapReadOnly))
            other.tell(maps[-1].getVirtualAddress())
            wrong.append(difference(content, other.hear()))
        try:
            memory.release()
            refused = "released"
        except IOBusyError as error:
            refused = error.code.name
        for each in maps:
            each.unmap()
    attest(
        SHARED,
        asked="mapped by the kernel, this process and two more",
        attested=f"{seen}; release while mapped there: {refused}",
        kept=not any(wrong) and refused == "kIOReturnBusy",
        reason="; ".join(wrong),
    )


@pytest.mark.promise("kIOMapWriteCombineCache")
def test_another_process_cannot_map_with_another_mode(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    memory = buffer(kIODirectionInOut | kIOMapWriteCombineCache | kIOMemoryKernelUserShared, 8192)
    place = memory.getPhysicalAddress()

    def other_modes(_ask: Ask) -> Iterator[object]:
        given = []
        with Driver() as driver:
            for mode in EFFECTIVE:
                try:
                    driver.map(place, 8192, mode).close()
                    given.append(mode.name)
                except IOBusyError:
                    pass
        yield given

    with OtherProcess(other_modes) as other:
        given = other.hear()
    seen = bench.device_reads(memory, data.take(8192))
    again = memory.createMappingInTask(current_task(), 0, kIOMapAnywhere | kIOMapUnique)
    again.unmap()
    attest(
        "kIOMapWriteCombineCache",
        asked="another process maps it with each mode",
        attested=f"given: {', '.join(given)}; {seen}",
        kept=given == ["WRITE_COMBINE"],
    )
