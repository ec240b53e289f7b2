# SPDX-License-Identifier: Apache-2.0
"""IOKit's rules, as code that is ported from it meets them: `iobuffer.cxx`, which is strict."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    Task,
    current_task,
    cxx,
    kernel_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.testkit import Attest, CheckFailed, DmaChecker, Patterns

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.any_device,
    pytest.mark.unlimited("addresses", "alignment"),
]

SIZE = 10000
create = cxx.IOBufferMemoryDescriptor.inTaskWithOptions


def made(found: cxx.IOBufferMemoryDescriptor | None) -> cxx.IOBufferMemoryDescriptor:
    if found is None:
        raise CheckFailed(f"NULL: {cxx.last_error()}")
    return found


@pytest.mark.promise("inTask")
@pytest.mark.parametrize(
    ("task", "options"),
    [(kernel_task, kIODirectionInOut), (None, kIODirectionInOut | kIOMemoryPageable)],
    ids=["kernel_task", "pageable"],
)
def test_wired_memory_is_the_kernels(
    bench: DmaChecker, data: Patterns, attest: Attest, task: Task | None, options: IOOptions
) -> None:
    """Of a user task it is NULL; the kernel's, and pageable memory, are made and moved."""
    refused = create(current_task(), kIODirectionInOut, SIZE)
    error = cxx.last_error()
    memory = made(create(task or current_task(), options, SIZE))
    codes = [memory.prepare()]
    seen = bench.device_reads(memory, data.take(SIZE))
    bench.device_writes(memory, data.take(SIZE))
    codes += [memory.complete(), memory.release()]
    attest(
        "inTask",
        asked=f"strict: wired memory of a user task, then {options} of {memory.task}",
        attested=f"NULL: {refused is None}; then {', '.join(each.name for each in codes)}; {seen}",
        kept=refused is None and error is not None and set(codes) == {cxx.kIOReturnSuccess},
    )


@pytest.mark.promise("kIODirectionOut")
def test_memory_for_out_takes_no_bytes(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """It is wired for reads alone: writeBytes stores nothing, and the device sees the old bytes."""
    content, other = data.take(SIZE), data.take(SIZE)
    memory = made(cxx.IOBufferMemoryDescriptor.withBytes(content, kIODirectionOut))
    stored = memory.writeBytes(0, other)
    seen = bench.device_sees(memory, content)
    memory.setDirection(kIODirectionInOut)
    after = memory.writeBytes(0, other)
    bench.device_sees(memory, other)
    memory.release()
    attest(
        "kIODirectionOut",
        asked="strict: writeBytes to memory for Out, then for InOut",
        attested=f"{stored} bytes stored, then {after}; {seen}",
        kept=(stored, after) == (0, SIZE),
    )


@pytest.mark.promise("alignment")
def test_contiguous_memory_is_aligned_to_its_capacity(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """Several at once: of neighbours of three pages, not all could be so by chance."""
    seen, whole = [], True
    with ExitStack() as stack:
        for _ in range(4):
            memory = IOBufferMemoryDescriptor.withCapacity(SIZE, kIODirectionIn, True)
            stack.callback(memory.release)
            seen.append(bench.device_writes(memory, data.take(SIZE)))
            whole &= memory.segments() == [(seen[-1].address, SIZE)]
    attest(
        "alignment",
        asked=f"withCapacity({SIZE}, contiguous), four of them: to 16384",
        attested=f"at {', '.join(hex(each.address) for each in seen)}; {seen[0]}",
        kept=whole and not any(each.address % 16384 for each in seen),
    )
