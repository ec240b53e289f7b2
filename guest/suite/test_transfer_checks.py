# SPDX-License-Identifier: Apache-2.0
"""Transfers as the allocator knows them: who made a buffer, and which bytes no DMA moved.

Each check has a right neighbour here, which stays green.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODMACommand,
    IONoMemoryError,
    IOReturnError,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
)
from dma_rehearsal.guest.iobuffer.base import mistakes, provenance
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.dma.command import Specification, kForceDoubleBuffer
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns

MakeMemory = Callable[..., IOBufferMemoryDescriptor]
PROMISE = "transfer accounts"
DONE, LEFT = 3 * PAGE // 4, PAGE // 4
# The device's DMAs here have no limits, and a grant or a segment of their own.
plain = pytest.mark.unlimited()


def line(back: int = 0) -> str:
    """Return the end of the caller's "file:line", ``back`` lines before it."""
    frame = inspect.currentframe()
    number = frame.f_back.f_lineno if frame is not None and frame.f_back is not None else 0
    return f"{Path(__file__).name}:{number - back}"


def create(capacity: int) -> IOBufferMemoryDescriptor:
    """Make a buffer that the test releases itself."""
    return IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionInOut, capacity)


@contextmanager
def doubled(memory: IOBufferMemoryDescriptor) -> Iterator[IODMACommand]:
    """Prepare a command on memory, all of it in a bounce buffer."""
    command = IODMACommand(Specification(max_segment=1024))
    command.setMemoryDescriptor(memory)
    command.synchronize(kForceDoubleBuffer)
    try:
        yield command
    finally:
        if command.prepared:
            command.complete(synchronize=False)


def refused(call: Callable[[], object]) -> str:
    """Return the words of what a call raises, "" when it passes."""
    try:
        call()
    except IOReturnError as error:
        return f"{type(error).__name__}: {error.reason}"
    return ""


@plain
@pytest.mark.promise("provenance")
def test_the_line_that_made_and_released_it(bench: DmaChecker, attest: Attest) -> None:
    memory = IOBufferMemoryDescriptor.withOptions(kIODirectionInOut, PAGE)
    made = line(1)
    address, _ = memory.getPhysicalSegment(0)
    bench.dma(address, 64, write_memory=False)
    before = provenance.describe(address + 16, 4)
    memory.release()
    released = line(1)
    after = provenance.describe(address + 16, 4)
    attest(
        "provenance",
        asked="an address in a buffer, and after its release",
        attested=f"{before}; {after}",
        kept=before.endswith(made)
        and f"{made}, released at " in after
        and after.endswith(f"{released}, 0 operations ago"),
    )


@plain
@pytest.mark.promise("provenance")
def test_a_dropped_buffer_is_known_by_its_line(bench: DmaChecker, attest: Attest) -> None:
    provenance.dropped(take=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        create(PAGE + 64)
        gc.collect()
    dropped = provenance.dropped(take=True)
    with create(PAGE) as memory:
        bench.dma(memory.getPhysicalAddress(), 64, write_memory=False)
    attest(
        "provenance",
        asked="a buffer dropped without release(), and one that was released",
        attested=f"{dropped}",
        kept=[name for name, _ in dropped] == [f"IOBufferMemoryDescriptor of {PAGE + 64} bytes"]
        and all(Path(__file__).name in made for _, made in dropped)
        and not provenance.dropped(),
    )


@plain
@pytest.mark.promise(PROMISE)
def test_bytes_that_no_dma_touched(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest
) -> None:
    """The wrong one moves three quarters of what it prepared; its neighbour all of it."""
    said = []
    for length in DONE, PAGE:
        memory = buffer(kIODirectionIn, PAGE, PAGE)
        bench.load(data.take(length))
        memory.prepare()
        bench.dma(memory.getPhysicalAddress(), length, write_memory=True)
        with coverage.strict():
            said.append(refused(memory.complete))
    wanted = f"prepared {PAGE} bytes for In; no DMA touched {LEFT} of them, from offset {DONE}"
    attest(
        PROMISE,
        asked=f"complete() after {DONE} of {PAGE} bytes, and after all of them, strict coverage",
        attested="; ".join(said),
        kept=said[0].startswith("CoverageError") and wanted in said[0] and said[1] == "",
    )


@plain
@pytest.mark.promise(PROMISE)
def test_an_error_path_needs_no_dma(bench: DmaChecker, buffer: MakeMemory, attest: Attest) -> None:
    bench.dma(bench.staging.getPhysicalAddress(), 64, write_memory=False)
    memory = buffer(kIODirectionOut, PAGE, PAGE)
    coverage.begin()
    memory.prepare()
    said = refused(memory.complete)
    told = coverage.lines()
    wanted = f"prepared {PAGE} bytes for Out; no DMA touched any of them"
    attest(
        PROMISE,
        asked="complete() without DMA; what a failed test would show",
        attested=f"{said or 'done'}; {'; '.join(told)}",
        kept=not said and len(told) == 1 and wanted in told[0],
    )


@plain
@pytest.mark.promise(PROMISE)
@pytest.mark.strict_coverage
def test_all_that_is_prepared_is_touched(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest
) -> None:
    """By writes and reads of several DMAs, through a bounce buffer, and in wired memory."""
    wired, bounced = buffer(kIODirectionInOut, PAGE, PAGE), buffer(kIODirectionIn, PAGE, PAGE)
    bench.load(data.take(PAGE))
    address = wired.getPhysicalAddress()
    bench.dma(address, DONE, write_memory=True)
    bench.dma(address + DONE, LEFT, write_memory=False)
    with doubled(bounced) as command:
        for at, length in command.genIOVMSegments(0, 32)[0]:
            bench.dma(at, length, write_memory=True)
        command.complete()
    said = coverage.lines()
    attest(
        PROMISE,
        asked="strict coverage of wired memory, and of memory in a bounce buffer",
        attested="; ".join(said) or "all of it was touched",
        kept=not said,
    )


@plain
@pytest.mark.promise(PROMISE)
def test_a_list_that_is_not_generated_to_its_end(
    bench: DmaChecker, buffer: MakeMemory, attest: Attest
) -> None:
    """The neighbours: in several calls to the end, not at all, and given up."""
    said = []
    for steps in 1, 2, 0, -1:
        command = IODMACommand(Specification(max_segment=1024))
        command.setMemoryDescriptor(buffer(kIODirectionOut, PAGE, PAGE))
        offset = 0
        for _ in range(abs(steps)):
            segments, offset = command.genIOVMSegments(offset, 2)
            for at, length in segments:
                bench.dma(at, length, write_memory=False)
        said.append(refused(lambda: command.complete(synchronize=steps >= 0)))  # noqa: B023
        assert not command.prepared
    wanted = f"segments for {PAGE // 2} of {PAGE} bytes were generated: generate until offset"
    attest(
        PROMISE,
        asked="complete() of a list that is half, all, not at all generated, and given up",
        attested="; ".join(each or "done" for each in said),
        kept=wanted in said[0] and said[1:] == ["", "", ""],
    )


@plain
@pytest.mark.promise(PROMISE)
def test_data_that_stays_in_the_bounce_buffer(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest
) -> None:
    """The neighbours: nothing was written, and what was written was brought before."""
    said, busy = [], ""
    for written, brought in (True, False), (False, False), (True, True):
        memory = buffer(kIODirectionIn, PAGE, PAGE)
        with doubled(memory) as command:
            if written:
                bench.load(data.take(1024))
                bench.dma(command.genIOVMSegments(0, 1)[0][0][0], 1024, write_memory=True)
            if brought:
                command.synchronize(int(kIODirectionIn))
            elif written:
                busy = refused(memory.release)
            command.complete(synchronize=False)
        said.append("; ".join(mistakes.taken()))
    wanted = "1024 bytes that a device wrote for them are in the bounce buffer"
    attest(
        PROMISE,
        asked="complete(synchronize=False) with data in the bounce buffer, without, and after In",
        attested="; ".join(each or "nothing" for each in said),
        kept=wanted in said[0] and wanted in busy and said[1:] == ["", ""],
    )


@plain
@pytest.mark.promise("provenance")
def test_no_memory_names_who_has_it(bench: DmaChecker, attest: Attest) -> None:
    pool = pool_registry.named("low")
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, 2 * PAGE, pool="low"
    ) as memory:
        with pytest.raises(IONoMemoryError) as none:
            IOBufferMemoryDescriptor.inTaskWithOptions(
                current_task(), kIODirectionInOut, pool.size, pool="low"
            )
        bench.dma(memory.getPhysicalAddress(), 64, write_memory=False)
        memory.prepare()
        with pytest.raises(IOBusyError) as busy:
            memory.release()
        prepared = line(3)
        memory.complete()
    held = f"IOBufferMemoryDescriptor of {2 * PAGE} bytes, kIODirectionInOut, made at "
    attest(
        "provenance",
        asked="all of a pool while a buffer is in it; release() while it is prepared",
        attested=f"{none.value.reason}; {busy.value.reason}",
        kept=f"{Path(__file__).name}:" in none.value.reason.partition(held)[2]
        and "1 prepare() without complete(), at " in busy.value.reason
        and busy.value.reason.endswith(prepared),
    )
