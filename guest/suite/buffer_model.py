"""Random operations on buffers, each held against a simple model, with the real device.

A program is a list of (operation, number): the number decides everything that an operation has to
choose, so a program is replayed by the seed alone, and a shorter one is still a program.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from iobuffer import (
    IOBufferMemoryDescriptor,
    IODirection,
    IOMemoryMap,
    IOOptions,
    IOReturn,
    IOReturnError,
    PurgeableState,
    current_task,
    kernel_task,
    kIOMapAnywhere,
    kIOMapUnique,
    kIOMemoryAutoPrepare,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
    vm,
)
from page_frames import MADV_PAGEOUT

from .attestation import CheckFailed
from .bench import Bench, free_sizes
from .patterns import difference, inverted

PAGE: Final = 4096
LIVE_MAX: Final = 10
KEEP: Final = PurgeableState.kIOMemoryPurgeableKeepCurrent
NON_VOLATILE: Final = PurgeableState.kIOMemoryPurgeableNonVolatile
VOLATILE: Final = PurgeableState.kIOMemoryPurgeableVolatile
EMPTY: Final = PurgeableState.kIOMemoryPurgeableEmpty

Step = tuple[str, int]


@dataclass(slots=True)
class Modelled:
    """One live buffer, and what must be true of it."""

    memory: IOBufferMemoryDescriptor
    content: bytearray
    own: int  # preparations that it made itself
    direction: IODirection
    prepared: list[IODirection] = field(default_factory=list)
    maps: list[IOMemoryMap] = field(default_factory=list)
    state: PurgeableState = NON_VOLATILE

    @property
    def wired(self) -> bool:
        return bool(self.own or self.prepared)

    def device_may(self, direction: IODirection) -> bool:
        granted = [*self.prepared, *([self.direction] if self.own else [])]
        return any(each is IODirection.kIODirectionNone or each & direction for each in granted)


class Machine:
    """Runs programs. ``free_sizes`` of the pools are the same before and after."""

    def __init__(self, bench: Bench, *, protected: bool) -> None:
        """``protected``: a protection unit denies what was not granted."""
        self._bench = bench
        self._protected = protected
        self._live: list[Modelled] = []
        self._random = random.Random()
        self.dmas = 0

    def run(self, program: list[Step]) -> None:
        """Run a program on no buffers, release everything; `CheckFailed` names the step."""
        before = free_sizes()
        try:
            for number, (operation, choice) in enumerate(program):
                self._random.seed(choice)
                try:
                    OPERATIONS[operation](self)
                except (CheckFailed, IOReturnError) as error:
                    raise CheckFailed(f"step {number}, {operation}({choice}): {error}") from error
        finally:
            self._end()
        after = free_sizes()
        if after != before:
            raise CheckFailed(f"free before {before}, after {after}")

    def _end(self) -> None:
        for each in self._live:
            for mapped in each.maps:
                mapped.unmap()
            for _ in each.prepared:
                each.memory.complete()
            each.memory.release()
        self._live.clear()

    def _any(self, wanted: Callable[[Modelled], bool] = lambda _: True) -> Modelled | None:
        found = [each for each in self._live if wanted(each)]
        return self._random.choice(found) if found else None

    def _fresh(self, length: int) -> bytes:
        return self._random.randbytes(length)

    # Operations.

    def create(self) -> None:
        if len(self._live) == LIVE_MAX:
            return
        drawn = self._random
        direction = drawn.choice(list(IODirection))
        kind = drawn.choice(["wired", "wired", "mode", "pageable", "purgeable", "shared", "kernel"])
        options = IOOptions(int(direction))
        task = current_task()
        if kind == "mode":
            options |= IOOptions(drawn.randrange(1, 5) << 8)
        elif kind == "pageable":
            options |= kIOMemoryPageable
            if drawn.random() < 0.3:
                options |= kIOMemoryAutoPrepare
        elif kind == "purgeable":
            options |= kIOMemoryPageable | kIOMemoryPurgeable
        elif kind == "shared":
            options |= kIOMemoryKernelUserShared
        elif kind == "kernel":
            task = kernel_task
        capacity = drawn.choice([1, 64, 100, 4096, 5000, 3 * PAGE, 40000])
        alignment = 1 if kIOMemoryPageable in options else drawn.choice([1, 64, 4096, 16384])
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(task, options, capacity, alignment)
        made = Modelled(memory, bytearray(capacity), memory.prepared, direction)
        self._live.append(made)
        if made.own and memory.getPhysicalAddress() % alignment:
            raise CheckFailed(f"{memory!r} is not aligned to {alignment}")
        self._look(made)

    def release(self) -> None:
        chosen = self._any()
        if chosen is None:
            return
        busy = bool(chosen.maps or chosen.prepared)
        self._expect(
            IOReturn.kIOReturnBusy if busy else IOReturn.kIOReturnSuccess, chosen.memory.release
        )
        if not busy:
            self._live.remove(chosen)

    def map(self) -> None:
        chosen = self._any(lambda each: kIOMemoryPurgeable not in each.memory.getOptions())
        if chosen is not None and len(chosen.maps) < 3:
            mapped = chosen.memory.createMappingInTask(
                current_task(), 0, kIOMapAnywhere | kIOMapUnique
            )
            chosen.maps.append(mapped)
            with mapped.view() as view:
                self._same(chosen, bytes(view), "a new mapping")

    def unmap(self) -> None:
        chosen = self._any(lambda each: bool(each.maps))
        if chosen is not None:
            chosen.maps.pop(self._random.randrange(len(chosen.maps))).unmap()

    def prepare(self) -> None:
        chosen = self._any()
        if chosen is None or len(chosen.prepared) == 3:
            return
        direction = self._random.choice(list(IODirection))
        actual = direction or chosen.direction
        granted = [*([chosen.direction] if chosen.own else []), *chosen.prepared]
        wanted = IOReturn.kIOReturnSuccess
        if granted and granted[0] is IODirection.kIODirectionOut and actual & 1:
            wanted = IOReturn.kIOReturnNotWritable
        elif chosen.state is not NON_VOLATILE:
            wanted = IOReturn.kIOReturnNotReady
        self._expect(wanted, chosen.memory.prepare, direction)
        if wanted is IOReturn.kIOReturnSuccess:
            chosen.prepared.append(actual)

    def complete(self) -> None:
        chosen = self._any()
        if chosen is None:
            return
        wanted = IOReturn.kIOReturnSuccess if chosen.prepared else IOReturn.kIOReturnNotReady
        self._expect(wanted, chosen.memory.complete)
        if chosen.prepared:
            chosen.prepared.pop()

    def store(self) -> None:
        chosen = self._any(lambda each: each.state is NON_VOLATILE)
        if chosen is None:
            return
        start = self._random.randrange(len(chosen.content))
        data = self._fresh(self._random.randint(1, len(chosen.content) - start))
        if chosen.maps and self._random.random() < 0.5:
            with self._random.choice(chosen.maps).view() as view:
                view[start : start + len(data)] = data
        else:
            chosen.memory.writeBytes(start, data)
        chosen.content[start : start + len(data)] = data

    def device_reads(self) -> None:
        self._dma(write_memory=False)

    def device_writes(self) -> None:
        self._dma(write_memory=True)

    def _dma(self, *, write_memory: bool) -> None:
        chosen = self._any(lambda each: each.wired)
        if chosen is None:
            return
        start = self._random.randrange(len(chosen.content))
        length = self._random.randint(1, len(chosen.content) - start)
        at = start
        way = IODirection.kIODirectionIn if write_memory else IODirection.kIODirectionOut
        allowed = chosen.device_may(way)
        if not allowed and not self._protected:
            return
        for address, size in chosen.memory.segments(start, length):
            new, there = self._fresh(size), bytes(chosen.content[at : at + size])
            self._bench.load(new if write_memory else inverted(there))
            record = self._bench.device.dma(address, size, write_memory=write_memory)
            self.dmas += 1
            if record.ok is not allowed:
                raise CheckFailed(f"{way.name} on {chosen.memory!r}: {record}")
            if allowed and write_memory:
                chosen.content[at : at + size] = new
            elif allowed and self._bench.stored(size) != there:
                raise CheckFailed(f"the device read other bytes of {chosen.memory!r}")
            at += size
        self._look(chosen)

    def purge(self) -> None:
        chosen = self._any(lambda each: kIOMemoryPurgeable in each.memory.getOptions())
        if chosen is None:
            return
        new = self._random.choice([NON_VOLATILE, VOLATILE, EMPTY])
        if chosen.wired:
            self._expect(IOReturn.kIOReturnBusy, chosen.memory.setPurgeable, new)
            return
        old = chosen.memory.setPurgeable(new)
        if old is not chosen.state:
            raise CheckFailed(f"old state {old.name}, {chosen.state.name} in the model")
        if new is EMPTY or (new is VOLATILE and old is EMPTY):
            chosen.state = EMPTY
        else:
            chosen.state = new
        if chosen.state is EMPTY or old is EMPTY:
            chosen.content[:] = bytes(len(chosen.content))
        if chosen.state is VOLATILE and any(chosen.content) and self._random.random() < 0.5:
            vm.advise(chosen.memory.address, chosen.memory.backing.size, MADV_PAGEOUT)
            if chosen.memory.setPurgeable(KEEP) is EMPTY:
                chosen.state = EMPTY
                chosen.content[:] = bytes(len(chosen.content))

    def set_direction(self) -> None:
        chosen = self._any()
        if chosen is None:
            return
        new = self._random.choice(list(IODirection))
        busy = bool(chosen.prepared)
        self._expect(
            IOReturn.kIOReturnBusy if busy else IOReturn.kIOReturnSuccess,
            chosen.memory.setDirection,
            new,
        )
        if not busy:
            chosen.direction = new

    def sync(self) -> None:
        chosen = self._any(lambda each: each.wired)
        if chosen is not None:
            start = self._random.randrange(len(chosen.content))
            chosen.memory.sync_for_device(start)
            chosen.memory.sync_for_cpu(start)
            self._look(chosen)

    # Checks.

    def _expect(self, wanted: IOReturn, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
            got = IOReturn.kIOReturnSuccess
        except IOReturnError as error:
            got = error.code
        if got is not wanted:
            raise CheckFailed(f"{call} ended with {got.name}, {wanted.name} in the model")

    def _look(self, chosen: Modelled) -> None:
        """Hold the bytes against the model, through each way to them."""
        if chosen.state is VOLATILE:
            return
        self._same(chosen, chosen.memory.readBytes(0, len(chosen.content)), "readBytes")
        for mapped in chosen.maps:
            with mapped.view() as view:
                self._same(chosen, bytes(view), "a mapping")

    def _same(self, chosen: Modelled, seen: bytes, what: str) -> None:
        wrong = difference(bytes(chosen.content), seen)
        if wrong:
            raise CheckFailed(f"{what} of {chosen.memory!r}: {wrong}")


OPERATIONS: Final[dict[str, Callable[[Machine], None]]] = {
    name: getattr(Machine, name)
    for name in (
        *("create", "release", "map", "unmap", "prepare", "complete", "store"),
        *("device_reads", "device_writes", "purge", "set_direction", "sync"),
    )
}


def draw(seed: int, steps: int) -> list[Step]:
    """Return a program of so many steps; the seed decides it."""
    drawn = random.Random(seed)
    often = ("create", "device_reads", "device_writes")
    weights = [3 if name in often else 1 for name in OPERATIONS]
    names = drawn.choices(list(OPERATIONS), weights, k=steps)
    return [(name, drawn.randrange(1 << 32)) for name in names]


def shortened(program: list[Step], fails: Callable[[list[Step]], bool], tries: int) -> list[Step]:
    """Return a shorter program that fails as well, found in at most so many tries."""
    size = len(program) // 2
    while size and tries:
        start = 0
        while start < len(program) and tries:
            shorter = program[:start] + program[start + size :]
            tries -= 1
            if fails(shorter):
                program = shorter
            else:
                start += size
        size //= 2
    return program
