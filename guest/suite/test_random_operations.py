# SPDX-License-Identifier: Apache-2.0
"""Hundreds of random operations on live buffers, and thousands of cycles: all comes back."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOReturnError,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapUnique,
)
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.linux.kernel_cmdline import repeat_count
from dma_rehearsal.guest.testkit import Attest, CheckFailed, DmaChecker, MakeBuffer, Patterns

pytestmark = pytest.mark.any_device

create = IOBufferMemoryDescriptor.inTaskWithOptions


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.kernel
@pytest.mark.promise("random operations")
def test_against_a_model(bench: DmaChecker, attest: Attest, seed: int) -> None:
    from dma_rehearsal.guest.testkit import random_operations

    steps = repeat_count(300, 5000)
    try:
        tally = random_operations.run(bench, seed, steps)
    except (CheckFailed, IOReturnError) as error:
        program = "\n".join(getattr(error, "__notes__", ()))
        raise CheckFailed(f"seed {seed}: {error}\n{program}") from error
    attest(
        "random operations",
        asked=f"{steps} steps, seed {seed}",
        attested=f"{tally.dmas} DMAs in {tally.steps} steps as the model says; all memory back",
        kept=tally.steps >= steps and tally.dmas > steps // 20,
        reason=f"steps done: {dict(tally.done)}",
    )


def resident() -> int:
    """Bytes of this process in memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.unlimited("alignment")
@pytest.mark.promise("release")
def test_create_and_release_without_end(
    bench: DmaChecker, data: Patterns, buffer: MakeBuffer, attest: Attest
) -> None:
    """As in xnu's test of leaks: every cycle succeeds, and nothing is left of it.

    A few with their grants; the others without, which cost ten times as much as all the rest.
    """
    cycles = repeat_count(100, 200_000)
    free = pool_registry.named("main").free_size()
    grants = bench.platform.protection.grant_count
    for index in range(25):
        create(current_task(), kIODirectionInOut, 1 + 388 * index).release()
    grants -= bench.platform.protection.grant_count
    control, dma_platform.access_control = dma_platform.access_control, None
    try:
        before = descriptors(), resident()
        for index in range(cycles):
            create(current_task(), kIODirectionInOut, 1 + 97 * index % 9000).release()
        after = descriptors(), resident()
    finally:
        dma_platform.access_control = control
    left = pool_registry.named("main").free_size()
    seen = bench.device_reads(buffer(kIODirectionInOut, 100), data.take(100))
    attest(
        "release",
        asked=f"{cycles} times create and release",
        attested=f"descriptors {before[0]} and {after[0]}, {after[1] - before[1]} bytes more in "
        f"memory; {seen}",
        kept=left == free
        and not grants
        and after[0] == before[0]
        and after[1] - before[1] < 2 << 20,
        reason=f"free {free}, then {left}; grants that are left: {-grants}",
    )


@pytest.mark.promise("createMappingInTask")
def test_map_and_unmap_without_end(
    bench: DmaChecker, data: Patterns, buffer: MakeBuffer, attest: Attest
) -> None:
    cycles = repeat_count(100, 20_000)
    memory = buffer(kIODirectionInOut, 20000)
    content = data.take(20000)
    seen = bench.device_writes(memory, content)
    before = descriptors(), resident()
    wrong = 0
    for index in range(cycles):
        with (
            memory.createMappingInTask(
                current_task(), 0, kIOMapAnywhere | kIOMapUnique, index * 199 % 19999, 1
            ) as mapped,
            mapped.view() as view,
        ):
            wrong += view[0] != content[index * 199 % 19999]
    after = descriptors(), resident()
    attest(
        "createMappingInTask",
        asked=f"{cycles} times map and unmap",
        attested=f"descriptors {before[0]} and {after[0]}, {after[1] - before[1]} bytes more in "
        f"memory; {seen}",
        kept=not wrong and after[0] == before[0] and after[1] - before[1] < 2 << 20,
        reason=f"{wrong} wrong bytes",
    )
