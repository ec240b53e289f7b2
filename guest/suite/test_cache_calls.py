# SPDX-License-Identifier: Apache-2.0
"""The front end's calls that do cache maintenance, each on a board that needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODMACommand,
    IOMemoryDescriptor,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIODirectionPrepareNonCoherent,
    kIOMapCopybackCache,
    kIOMemoryIncoherentIOFlush,
    kIOMemoryIncoherentIOStore,
)
from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.dma.command import (
    MappingOptions,
    Specification,
    kForceDoubleBuffer,
)
from dma_rehearsal.guest.testkit import Attest, CheckFailed, NonCoherent, Patterns, difference
from dma_rehearsal.guest.testkit.noncoherent import LINE

LENGTH = 4 * LINE
PROMISE = "cache maintenance"
OUT, IN = int(kIODirectionOut), int(kIODirectionIn)


class Way(NamedTuple):
    """Memory for the device, and the calls that replace the syncs before and after its DMA."""

    memory: IOMemoryDescriptor
    before: Callable[[], object]
    after: Callable[[], object]


@contextmanager
def operations(memory: IOBufferMemoryDescriptor) -> Iterator[Way]:
    """Use the memory's own operations."""
    yield Way(
        memory,
        lambda: memory.performOperation(kIOMemoryIncoherentIOStore, 0, LENGTH),
        lambda: memory.performOperation(kIOMemoryIncoherentIOFlush, 0, LENGTH),
    )


@contextmanager
def preparations(memory: IOBufferMemoryDescriptor) -> Iterator[Way]:
    """Use prepare() and complete() with their flag."""
    flag = int(kIODirectionPrepareNonCoherent)
    yield Way(memory, lambda: memory.prepare(flags=flag), lambda: memory.complete(flags=flag))


@contextmanager
def commands(memory: IOBufferMemoryDescriptor) -> Iterator[Way]:
    """Use prepare() and complete() of a command for a device that is not coherent."""
    with IODMACommand(Specification(mapping=MappingOptions.kNonCoherent)) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        yield Way(memory, command.prepare, command.complete)


@contextmanager
def synchronized(memory: IOBufferMemoryDescriptor) -> Iterator[Way]:
    """Use a command's synchronize(), while it is prepared."""
    with IODMACommand(Specification(mapping=MappingOptions.kNonCoherent)) as command:
        command.setMemoryDescriptor(memory)
        yield Way(memory, lambda: command.synchronize(OUT), lambda: command.synchronize(IN))


@contextmanager
def bounced(memory: IOBufferMemoryDescriptor) -> Iterator[Way]:
    """Use it with a bounce buffer, whose lines are then synced."""
    with IODMACommand(Specification(mapping=MappingOptions.kNonCoherent)) as command:
        command.setMemoryDescriptor(memory)
        command.synchronize(kForceDoubleBuffer)
        bounce = command.getIOMemoryDescriptor()
        if bounce is None or bounce is memory:
            raise CheckFailed("kForceDoubleBuffer, and no bounce buffer")
        yield Way(bounce, lambda: command.synchronize(OUT), lambda: command.synchronize(IN))


@pytest.mark.any_device
@pytest.mark.unlimited("addresses")  # a forced bounce buffer is from the main pool
@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("way", [operations, preparations, commands, synchronized, bounced])
def test_calls_that_are_syncs(
    noncoherent: NonCoherent,
    data: Patterns,
    attest: Attest,
    way: Callable[[IOBufferMemoryDescriptor], AbstractContextManager[Way]],
) -> None:
    """The device reads what the CPU stored, and the CPU loads what the device wrote."""
    memory = noncoherent.buffer(kIODirectionInOut | kIOMapCopybackCache, LENGTH)
    sent, received = data.take(LENGTH), data.take(LENGTH)
    with way(memory) as calls:
        memory.writeBytes(0, sent)
        calls.before()
        seen = noncoherent.reads(calls.memory, 0, LENGTH)
        noncoherent.writes(calls.memory, 0, received)
        stale = memory.readBytes(0, LENGTH)
        peeks = mistakes.taken()
        calls.after()
        loaded = memory.readBytes(0, LENGTH)
    # Behind a bounce buffer its own lines are still as the CPU left them.
    memory.performOperation(kIOMemoryIncoherentIOStore, 0, LENGTH)
    attest(
        PROMISE,
        asked=f"{way.__name__}: no-snoop read after, no-snoop write before the call",
        attested="the device reads what was stored, the CPU loads what was written",
        kept=(seen, stale, loaded, len(peeks)) == (sent, sent, received, way is bounced),
        reason=f"device: {difference(sent, seen)}; CPU before: {difference(sent, stale)}; "
        f"after: {difference(received, loaded)}",
        evidence="cache",
    )
