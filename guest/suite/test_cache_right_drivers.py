# SPDX-License-Identifier: Apache-2.0
"""Right drivers that come close to a mistake, on a board that is not coherent: no report.

Each has its wrong neighbour in `test_cache_mistakes`.
"""

from __future__ import annotations

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIODirectionPrepareNonCoherent,
    kIOMapCopybackCache,
)
from dma_rehearsal.guest.iobuffer.dma.command import (
    IODMACommand,
    MappingOptions,
    Specification,
    kForceDoubleBuffer,
)
from dma_rehearsal.guest.testkit import Attest, NonCoherent, Patterns, difference
from dma_rehearsal.guest.testkit.noncoherent import LINE

PROMISE = "right drivers"
LENGTH = 4 * LINE
pytestmark = [pytest.mark.promise(PROMISE), pytest.mark.any_device]
receiving = pytest.mark.parametrize(
    "direction", [kIODirectionIn, kIODirectionInOut], ids=["In", "InOut"]
)


def make(board: NonCoherent, direction: IOOptions) -> IOBufferMemoryDescriptor:
    """Make a write-back buffer that nobody has given to the device yet."""
    return board.buffer(direction | kIOMapCopybackCache, LENGTH)


def received(board: NonCoherent, memory: IOBufferMemoryDescriptor, content: bytes) -> str:
    """Receive with both syncs; return what is wrong with what the CPU loads."""
    memory.sync_for_device()
    board.writes(memory, 0, content)
    memory.sync_for_cpu()
    return difference(content, memory.readBytes(0, LENGTH))


@receiving
@pytest.mark.parametrize("synced", [False, True], ids=["as it is", "after one more sync"])
def test_header_written_anew_after_the_last_receive(
    noncoherent: NonCoherent,
    data: Patterns,
    attest: Attest,
    direction: IOOptions,
    synced: bool,
) -> None:
    """The packet is changed in place, handed on, and its buffer released."""
    memory = make(noncoherent, direction)
    wrong = received(noncoherent, memory, data.take(LENGTH))
    with noncoherent.expects():
        memory.writeBytes(0, data.take(16))
        if synced:
            memory.sync_for_device()
        memory.release()
    attest(
        PROMISE,
        asked=f"{direction!r}: a header written anew{', and synced' * synced}, then release",
        attested="no report",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


@receiving
def test_store_after_complete(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    """complete() with kIODirectionPrepareNonCoherent gives the memory back to the CPU."""
    memory, content = make(noncoherent, direction), data.take(LENGTH)
    flag = int(kIODirectionPrepareNonCoherent)
    with noncoherent.expects():
        memory.prepare(flags=flag)
        memory.sync_for_device()
        noncoherent.writes(memory, 0, content)
        memory.complete(flags=flag)
        wrong = difference(content, memory.readBytes(0, LENGTH))
        memory.writeBytes(0, data.take(16))
        memory.release()
    attest(
        PROMISE,
        asked=f"{direction!r}: complete(), a store, release",
        attested="no report",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


def test_buffer_that_is_never_used_for_dma(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """An error path: made, filled, and given up."""
    memory = make(noncoherent, kIODirectionOut)
    with noncoherent.expects():
        memory.writeBytes(0, data.take(LENGTH))
        memory.release()
    attest(
        PROMISE,
        asked="a store, release, and no DMA",
        attested="no report",
        kept=True,
        evidence="cache",
    )


@pytest.mark.parametrize("ends", ["sync_for_cpu()", "complete()"])
def test_secret_that_is_wiped(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, ends: str
) -> None:
    """A key is sent, then wiped before the memory is given back."""
    memory, secret = make(noncoherent, kIODirectionOut), data.take(LENGTH)
    with noncoherent.expects():
        if ends == "complete()":
            memory.prepare()
        memory.writeBytes(0, secret)
        memory.sync_for_device()
        sent = noncoherent.reads(memory, 0, LENGTH)
        if ends == "complete()":
            memory.complete()
        else:
            memory.sync_for_cpu()
        memory.writeBytes(0, bytes(LENGTH))
        memory.release()
    attest(
        PROMISE,
        asked=f"transmit, {ends}, wipe, release",
        attested="no report",
        kept=sent == secret,
        reason=difference(secret, sent),
        evidence="cache",
    )


@receiving
def test_receive_loop_that_only_looks(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    """Linux's DMA-API-HOWTO: memory without new stores of the CPU goes back without a sync."""
    memory = make(noncoherent, direction)
    wrong = received(noncoherent, memory, data.take(LENGTH))
    with noncoherent.expects():
        for _ in range(3):
            content = data.take(LENGTH)
            noncoherent.writes(memory, 0, content)
            memory.sync_for_cpu()
            wrong = wrong or difference(content, memory.readBytes(0, LENGTH))
        memory.release()
    attest(
        PROMISE,
        asked=f"{direction!r}: four receives, one sync_for_device()",
        attested="no report",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


def test_store_and_receive_in_lines_of_their_own(
    noncoherent: NonCoherent, data: Patterns, attest: Attest
) -> None:
    """A header that the CPU writes, and what is received behind it, each with its syncs."""
    memory, content = make(noncoherent, kIODirectionInOut), data.take(LENGTH - LINE)
    with noncoherent.expects():
        memory.sync_for_device()
        memory.sync_for_cpu(0, LINE)
        memory.writeBytes(0, data.take(LINE))
        noncoherent.writes(memory, LINE, content)
        memory.sync_for_cpu(LINE, LENGTH - LINE)
        wrong = difference(content, memory.readBytes(LINE, LENGTH - LINE))
        memory.release()
    attest(
        PROMISE,
        asked="the CPU stores to the first line while the others are received",
        attested="no report",
        kept=not wrong,
        reason=wrong,
        evidence="cache",
    )


@pytest.mark.unlimited("addresses")  # a forced bounce buffer is from the main pool
@receiving
def test_memory_behind_a_bounce_buffer(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    """complete() copies bytes back by the CPU: no device has the memory then."""
    content = data.take(LENGTH)
    options = direction | kIOMapCopybackCache
    with noncoherent.expects():
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, LENGTH)
        command = IODMACommand(Specification(mapping=MappingOptions.kNonCoherent))
        command.setMemoryDescriptor(memory)
        command.synchronize(kForceDoubleBuffer)
        bounce = command.getIOMemoryDescriptor()
        if bounce is not None:
            noncoherent.writes(bounce, 0, content)
        command.clearMemoryDescriptor()
        wrong = difference(content, memory.readBytes(0, LENGTH))
        memory.release()
    attest(
        PROMISE,
        asked=f"{direction!r}: a receive through a bounce buffer, release",
        attested="no report",
        kept=not wrong and bounce is not memory,
        reason=wrong,
        evidence="cache",
    )
