# SPDX-License-Identifier: Apache-2.0
"""A state machine of buffers that compares each step with a simple model, on the real device.

Hypothesis chooses the steps and their arguments, and shrinks a failure. `random_operations` sets
the seed and the settings.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
)

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
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
    kIOMapCopybackCache,
    kIOMapInhibitCache,
    kIOMapUnique,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
    kIOMemoryAutoPrepare,
    kIOMemoryKernelUserShared,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.linux.page_frames import MADV_PAGEOUT
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.buffers import free_sizes
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.patterns import difference, inverted

LIVE_MAX: Final = 10
NESTED_MAX: Final = 3  # preparations, and mappings, of one buffer
KEEP: Final = PurgeableState.kIOMemoryPurgeableKeepCurrent
NON_VOLATILE: Final = PurgeableState.kIOMemoryPurgeableNonVolatile
VOLATILE: Final = PurgeableState.kIOMemoryPurgeableVolatile
EMPTY: Final = PurgeableState.kIOMemoryPurgeableEmpty

KINDS: Final = {
    "wired": IOOptions(0),
    "purgeable": kIOMemoryPageable | kIOMemoryPurgeable,
    "pageable": kIOMemoryPageable,
    "prepared by itself": kIOMemoryPageable | kIOMemoryAutoPrepare,
    "shared": kIOMemoryKernelUserShared,
    "kernel's": IOOptions(0),
}
CACHES: Final = {  # of wired buffers
    "default": IOOptions(0),
    "uncached": kIOMapInhibitCache,
    "write-through": kIOMapWriteThruCache,
    "copy-back": kIOMapCopybackCache,
    "write-combining": kIOMapWriteCombineCache,
}
CAPACITIES: Final = (1, 64, 100, 4096, 5000, 3 * PAGE, 40000)

_T = TypeVar("_T", bound=Callable[..., object])


@dataclass(slots=True, eq=False)
class Modelled:
    """One live buffer, and the state that it must have."""

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

    @property
    def purgeable(self) -> bool:
        return kIOMemoryPurgeable in self.memory.getOptions()

    @property
    def busy(self) -> bool:
        return bool(self.maps or self.prepared)

    def device_may(self, direction: IODirection) -> bool:
        granted = [*self.prepared, *([self.direction] if self.own else [])]
        return any(each is IODirection.kIODirectionNone or each & direction for each in granted)

    def part(self, start: int, length: int) -> tuple[int, int]:
        """Return a part that is inside, for any numbers."""
        start %= len(self.content)
        return start, 1 + length % (len(self.content) - start)


@dataclass(slots=True)
class Tally:
    """Counts of the steps of all machines of a run."""

    done: Counter[str] = field(default_factory=Counter)  # steps, by rule
    dmas: int = 0

    @property
    def steps(self) -> int:
        return self.done.total()


Wanted = Callable[["BufferMachine", Modelled], bool]


def _step(wanted: Wanted, **arguments: st.SearchStrategy[Any]) -> Callable[[_T], _T]:
    """Make a rule of a step that needs a live ``buffer`` of a kind.

    It draws the buffer's number, which is much cheaper than a strategy of its own for each
    step.
    """

    drawn: Any = rule(**cast(Any, {"buffer": _NUMBERS, **arguments}))

    def made(step: _T) -> _T:
        @functools.wraps(step)
        def run(machine: BufferMachine, buffer: int, **rest: Any) -> None:
            found = machine.live(wanted)
            step(machine, buffer=found[buffer % len(found)], **rest)

        chosen = precondition(lambda machine: any(wanted(machine, each) for each in machine.all))
        return cast(_T, chosen(drawn(run)))

    return made


def _device_may_try(way: IODirection) -> Wanted:
    # Without a protection unit nothing denies such DMA, so the machine does not try it.
    return lambda machine, each: each.wired and (machine.protected or each.device_may(way))


def _mappable(_: BufferMachine, each: Modelled) -> bool:
    return not each.purgeable and len(each.maps) < NESTED_MAX


def _preparable(_: BufferMachine, each: Modelled) -> bool:
    return len(each.prepared) < NESTED_MAX


def _mapped(_: BufferMachine, each: Modelled) -> bool:
    return bool(each.maps)


def _wired(_: BufferMachine, each: Modelled) -> bool:
    return each.wired


def _purgeable(_: BufferMachine, each: Modelled) -> bool:
    return each.purgeable


def _storable(_: BufferMachine, each: Modelled) -> bool:
    return each.state is NON_VOLATILE


_READABLE = _device_may_try(IODirection.kIODirectionOut)
_WRITABLE = _device_may_try(IODirection.kIODirectionIn)
_DIRECTIONS = st.sampled_from(IODirection)
_NUMBERS = st.integers(0, LIVE_MAX - 1)  # of a live buffer
_OFFSETS = st.integers(0, max(CAPACITIES) - 1)
_SEEDS = st.integers(0, (1 << 32) - 1)  # of bytes: drawing them all is too much
_CREATE: Final[dict[str, Any]] = {
    "kind": st.sampled_from(list(KINDS)),
    "cache": st.sampled_from(list(CACHES)),
    "direction": _DIRECTIONS,
    "capacity": st.sampled_from(CAPACITIES),
    "alignment": st.sampled_from((1, 64, 4096, 16384)),
}


class BufferMachine(RuleBasedStateMachine):
    """Up to ten live buffers, and all operations on them in any order.

    ``protected``: a protection unit denies DMA without a grant. At the end all buffers are
    released, and the pools' ``free_sizes`` must be those of the beginning. `CheckFailed`.
    """

    buffers: Bundle[Modelled] = Bundle("buffers")

    def __init__(self, bench: DmaChecker, tally: Tally, *, protected: bool) -> None:
        super().__init__()
        self._bench = bench
        self._tally = tally
        self.protected = protected
        self.all: list[Modelled] = []
        self._free = free_sizes()

    def live(self, wanted: Wanted) -> list[Modelled]:
        """Return the live buffers of a kind."""
        return [each for each in self.all if wanted(self, each)]

    def teardown(self) -> None:
        """Release everything; `CheckFailed` when not all memory comes back."""
        for each in self.all:
            for mapped in each.maps:
                mapped.unmap()
            for _ in each.prepared:
                each.memory.complete()
            each.memory.release()
        self.all.clear()
        if (free := free_sizes()) != self._free:
            raise CheckFailed(f"free before {self._free}, after {free}")

    # Steps.

    @initialize(target=buffers, **_CREATE)
    def create_first(
        self, kind: str, cache: str, direction: IODirection, capacity: int, alignment: int
    ) -> Modelled:
        return self._create(kind, cache, direction, capacity, alignment)

    @precondition(lambda self: len(self.all) < LIVE_MAX)
    @rule(target=buffers, **_CREATE)
    def create(
        self, kind: str, cache: str, direction: IODirection, capacity: int, alignment: int
    ) -> Modelled:
        return self._create(kind, cache, direction, capacity, alignment)

    def _create(
        self, kind: str, cache: str, direction: IODirection, capacity: int, alignment: int
    ) -> Modelled:
        self._tally.done["create"] += 1
        options = IOOptions(int(direction)) | KINDS[kind]
        if kind == "wired":
            options |= CACHES[cache]
        task = kernel_task if kind == "kernel's" else current_task()
        if kIOMemoryPageable in options:
            alignment = 1
        memory = IOBufferMemoryDescriptor.inTaskWithOptions(task, options, capacity, alignment)
        made = Modelled(memory, bytearray(capacity), memory.prepared, direction)
        self.all.append(made)
        if made.own and memory.getPhysicalAddress() % alignment:
            raise CheckFailed(f"{memory!r} is not aligned to {alignment}")
        self._look(made)
        return made

    @rule(target=buffers, buffer=consumes(buffers))
    def release(self, buffer: Modelled) -> Modelled | MultipleResults[Modelled]:
        """Release it; it lives on while it is mapped or prepared."""
        self._tally.done["release"] += 1
        wanted = IOReturn.kIOReturnBusy if buffer.busy else IOReturn.kIOReturnSuccess
        self._expect(wanted, buffer.memory.release)
        if buffer.busy:
            return buffer
        self.all.remove(buffer)
        return multiple()

    @_step(_mappable)
    def map(self, buffer: Modelled) -> None:
        self._tally.done["map"] += 1
        mapped = buffer.memory.createMappingInTask(current_task(), 0, kIOMapAnywhere | kIOMapUnique)
        buffer.maps.append(mapped)
        with mapped.view() as view:
            self._same(buffer, bytes(view), "a new mapping")

    @_step(_mapped, which=st.integers(0, NESTED_MAX - 1))
    def unmap(self, buffer: Modelled, which: int) -> None:
        self._tally.done["unmap"] += 1
        buffer.maps.pop(which % len(buffer.maps)).unmap()

    @_step(_preparable, direction=_DIRECTIONS)
    def prepare(self, buffer: Modelled, direction: IODirection) -> None:
        self._tally.done["prepare"] += 1
        actual = direction or buffer.direction
        granted = [*([buffer.direction] if buffer.own else []), *buffer.prepared]
        wanted = IOReturn.kIOReturnSuccess
        if granted and granted[0] is IODirection.kIODirectionOut and actual & 1:
            wanted = IOReturn.kIOReturnNotWritable
        elif buffer.state is not NON_VOLATILE:
            wanted = IOReturn.kIOReturnNotReady
        self._expect(wanted, buffer.memory.prepare, direction)
        if wanted is IOReturn.kIOReturnSuccess:
            buffer.prepared.append(actual)

    @rule(buffer=buffers)
    def complete(self, buffer: Modelled) -> None:
        self._tally.done["complete"] += 1
        wanted = IOReturn.kIOReturnSuccess if buffer.prepared else IOReturn.kIOReturnNotReady
        self._expect(wanted, buffer.memory.complete)
        if buffer.prepared:
            buffer.prepared.pop()

    @_step(_storable, start=_OFFSETS, length=_OFFSETS, seed=_SEEDS, mapped=st.booleans())
    def store(self, buffer: Modelled, start: int, length: int, seed: int, mapped: bool) -> None:
        self._tally.done["store"] += 1
        start, length = buffer.part(start, length)
        data = random.Random(seed).randbytes(length)
        if buffer.maps and mapped:
            with buffer.maps[seed % len(buffer.maps)].view() as view:
                view[start : start + length] = data
        else:
            buffer.memory.writeBytes(start, data)
        buffer.content[start : start + length] = data

    @_step(_READABLE, start=_OFFSETS, length=_OFFSETS)
    def device_reads(self, buffer: Modelled, start: int, length: int) -> None:
        self._tally.done["device_reads"] += 1
        allowed = buffer.device_may(IODirection.kIODirectionOut)
        at, length = buffer.part(start, length)
        for address, size in buffer.memory.segments(at, length):
            there = bytes(buffer.content[at : at + size])
            self._bench.load(inverted(there))
            self._dma(buffer, address, size, write_memory=False, allowed=allowed)
            if allowed and self._bench.stored(size) != there:
                raise CheckFailed(f"the device read other bytes of {buffer.memory!r}")
            at += size
        self._look(buffer)

    @_step(_WRITABLE, start=_OFFSETS, length=_OFFSETS, seed=_SEEDS)
    def device_writes(self, buffer: Modelled, start: int, length: int, seed: int) -> None:
        self._tally.done["device_writes"] += 1
        allowed = buffer.device_may(IODirection.kIODirectionIn)
        at, length = buffer.part(start, length)
        fresh = random.Random(seed)
        for address, size in buffer.memory.segments(at, length):
            new = fresh.randbytes(size)
            self._bench.load(new)
            self._dma(buffer, address, size, write_memory=True, allowed=allowed)
            if allowed:
                buffer.content[at : at + size] = new
            at += size
        self._look(buffer)

    @_step(
        _purgeable,
        new=st.sampled_from((NON_VOLATILE, VOLATILE, EMPTY)),
        paged_out=st.booleans(),
    )
    def purge(self, buffer: Modelled, new: PurgeableState, paged_out: bool) -> None:
        """Change the state; ``paged_out``: the kernel then takes volatile memory."""
        self._tally.done["purge"] += 1
        if buffer.wired:
            self._expect(IOReturn.kIOReturnBusy, buffer.memory.setPurgeable, new)
            return
        old = buffer.memory.setPurgeable(new)
        if old is not buffer.state:
            raise CheckFailed(f"old state {old.name}, {buffer.state.name} in the model")
        buffer.state = EMPTY if new is VOLATILE and old is EMPTY else new
        if EMPTY in (buffer.state, old):
            buffer.content[:] = bytes(len(buffer.content))
        if buffer.state is VOLATILE and any(buffer.content) and paged_out:
            virtual_memory.advise(buffer.memory.address, buffer.memory.backing.size, MADV_PAGEOUT)
            if buffer.memory.setPurgeable(KEEP) is EMPTY:
                buffer.state = EMPTY
                buffer.content[:] = bytes(len(buffer.content))

    @rule(buffer=buffers, direction=_DIRECTIONS)
    def set_direction(self, buffer: Modelled, direction: IODirection) -> None:
        self._tally.done["set_direction"] += 1
        busy = bool(buffer.prepared)
        wanted = IOReturn.kIOReturnBusy if busy else IOReturn.kIOReturnSuccess
        self._expect(wanted, buffer.memory.setDirection, direction)
        if not busy:
            buffer.direction = direction

    @_step(_wired, start=_OFFSETS)
    def sync(self, buffer: Modelled, start: int) -> None:
        self._tally.done["sync"] += 1
        start %= len(buffer.content)
        buffer.memory.sync_for_device(start)
        buffer.memory.sync_for_cpu(start)
        self._look(buffer)

    # Checks.

    def _dma(
        self, buffer: Modelled, address: int, size: int, *, write_memory: bool, allowed: bool
    ) -> None:
        due = DmaReason.NONE if allowed else DmaReason.PROTECTION_DIRECTION
        record = self._bench.refused_dma(due, address, size, write_memory=write_memory)
        self._tally.dmas += 1
        if record.ok is not allowed:
            verb = "writes" if write_memory else "reads"
            raise CheckFailed(f"the device {verb} {buffer.memory!r}: {record}")

    def _expect(self, wanted: IOReturn, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
            got = IOReturn.kIOReturnSuccess
        except IOReturnError as error:
            got = error.code
        if got is not wanted:
            raise CheckFailed(f"{call} ended with {got.name}, {wanted.name} in the model")

    def _look(self, chosen: Modelled) -> None:
        """Compare the bytes with the model, through each mapping."""
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
