# SPDX-License-Identifier: Apache-2.0
"""Several processes at once, one of them killed at random: nobody sees foreign bytes."""

from __future__ import annotations

import fcntl
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IONoMemoryError,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapUnique,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    OtherProcess,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.buffers import free_sizes
from dma_rehearsal.guest.testkit.other_process import Ask

pytestmark = [pytest.mark.kernel, pytest.mark.any_device]

PROCESSES, ROUNDS = 4, 5
SIZES = (1, 64, 700, 4096, 5000, 20000, 65536)


class Engine:
    """The device's one DMA engine, which processes take in turns; who dies gives up its turn."""

    def __init__(self, bench: DmaChecker) -> None:
        self._bench = bench
        self._turn = os.memfd_create("turn", os.MFD_CLOEXEC)  # locked by process, forks apart

    def look(self, segment: tuple[int, int], mark: bytes) -> None:
        """Have the device read a segment, which must hold the mark, and write the same there."""
        address, length = segment[0], min(segment[1], self._bench.device.buffer_size)
        due = zlib.crc32(mark[:length])
        fcntl.lockf(self._turn, fcntl.LOCK_EX)
        try:
            read = self._bench.move(address, length, due, write_memory=False)
            if read is not None:
                raise CheckFailed(f"the device sees foreign bytes, CRC {due:08x} is due: {read}")
            written = self._bench.move(address, length, due, write_memory=True)
            if written is not None:
                raise CheckFailed(f"the device writes other bytes than it read: {written}")
        finally:
            fcntl.lockf(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock's file."""
        os.close(self._turn)


def worker(number: int, seed: int, engine: Engine) -> Callable[[Ask], Iterator[object]]:
    """Return what a process does: keep some buffers of its own mark, and say where they are.

    It has the device look at its newest ones, as the others do meanwhile. Each word is
    [(segments, mark)]: the test has the device look as well before the next round.
    """

    def work(ask: Ask) -> Iterator[object]:
        drawn = random.Random(f"{seed}:{number}")
        live: list[tuple[IOBufferMemoryDescriptor, bytes]] = []
        for turn in range(ROUNDS):
            while len(live) > 6:
                memory, mark = live.pop(drawn.randrange(len(live)))
                check(memory, mark)
                memory.complete()
                memory.release()
            for _ in range(4):
                options = kIODirectionInOut | (
                    int(kIOMemoryPageable) if drawn.random() < 0.25 else 0
                )
                size = drawn.choice(SIZES)
                memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, size)
                memory.prepare()
                mark = bytes([1 + 16 * number + turn % 16]) * size
                with (
                    memory.createMappingInTask(
                        current_task(), 0, kIOMapAnywhere | kIOMapUnique
                    ) as mapped,
                    mapped.view() as view,
                ):
                    view[:] = mark
                live.append((memory, mark))
                engine.look(drawn.choice(memory.segments()), mark)
            yield [(memory.segments(), mark) for memory, mark in live]
            ask()  # the device has looked, and written the same mark again
            for memory, mark in live:
                check(memory, mark)
        for memory, _ in live:
            memory.complete()
            memory.release()
        yield "done"

    return work


def check(memory: IOBufferMemoryDescriptor, mark: bytes) -> None:
    wrong = difference(mark, memory.readBytes(0, len(mark)))
    if wrong:
        raise CheckFailed(f"foreign bytes in {memory!r}: {wrong}")


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.promise("processes")
def test_four_processes_and_a_killed_one(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    drawn = random.Random(data.take(8))
    seed = drawn.randrange(1 << 32)
    before = free_sizes()
    victim, last_round = drawn.randrange(PROCESSES), drawn.randrange(1, ROUNDS - 1)
    dmas = 0
    with ExitStack() as stack:
        engine = Engine(bench)
        stack.callback(engine.close)
        count = bench.device.dma_count
        others = {
            number: stack.enter_context(OtherProcess(worker(number, seed, engine), cpu=number))
            for number in range(PROCESSES)
        }
        for turn in range(ROUNDS):
            places: list[tuple[int, int]] = []
            for other in others.values():
                for segments, mark in other.hear():
                    places += segments
                    engine.look(drawn.choice(segments), mark)
                    dmas += 2
            places.sort()
            for (at, size), (following, _) in pairwise(places):
                if at + size > following:
                    raise CheckFailed(f"two buffers share {following:#x}")
            for other in others.values():
                other.tell()
            if turn == last_round:
                # In the midst of its work, whatever that is by then.
                time.sleep(drawn.uniform(0, 0.1))
                others.pop(victim).kill()
        for other in others.values():
            if other.hear() != "done":
                raise CheckFailed("a process has not ended as it should")
        own = bench.device.dma_count - count - dmas
    after = free_sizes()
    attest(
        "processes",
        asked=f"{PROCESSES} processes, number {victim} killed in round {last_round}",
        attested=f"{own} DMAs of the processes and {dmas} for them, all with the owner's bytes; "
        f"free again: {after == before}",
        kept=after == before and own > PROCESSES * ROUNDS,
        reason=f"free before {before}, after {after}",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.promise("processes")
@pytest.mark.parametrize("pool", ["main", "hugetlb", "pinned"])
def test_memory_of_the_dead_comes_back(
    bench: DmaChecker, data: Patterns, attest: Attest, pool: str
) -> None:
    """A process takes most of a pool and is killed; its memory is there for the next one."""

    def hoard(_ask: Ask) -> Iterator[object]:
        kept: list[IOBufferMemoryDescriptor] = []
        # The others have no end: they take from what the kernel has.
        size, most = (8 << 20, 7) if pool == "main" else (2 << 20, 2)
        while len(kept) < most:
            try:
                kept.append(
                    IOBufferMemoryDescriptor.inTaskWithOptions(
                        current_task(), kIODirectionInOut, size, pool=pool
                    )
                )
            except IONoMemoryError:
                break
        yield sum(each.getCapacity() for each in kept)
        _ask()

    with OtherProcess(hoard) as other:
        taken = other.hear()
        other.kill()
    with IOBufferMemoryDescriptor.inTaskWithOptions(
        current_task(), kIODirectionInOut, taken, pool=pool
    ) as memory:
        seen = bench.device_writes(memory, data.take(100000))
        # A grant to a dead process does not open the memory to DMA once another process has it.
        left = bench.platform.protection.withdraw_dead()
    attest(
        "processes",
        asked=f"{pool}: {taken} bytes of a killed process",
        attested=f"{seen}; {left} grants of the dead",
        kept=taken >= (16 << 20 if pool == "main" else 4 << 20) and left == 0,
    )
