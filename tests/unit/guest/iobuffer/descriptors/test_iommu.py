# SPDX-License-Identifier: Apache-2.0
"""The mapper's side of a descriptor, with a mapper that only keeps books."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IODirection,
    IOGeneralMemoryDescriptor,
    IOMemoryDescriptor,
    IOMultiMemoryDescriptor,
    IONoMemoryError,
    IONotReadyError,
    IOReturn,
    IOSubMemoryDescriptor,
    IOUnsupportedError,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionNone,
    kIODirectionOut,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryMapperNone,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base import dma_activity, mistakes
from dma_rehearsal.guest.iobuffer.base.dma_activity import InFlight
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from dma_rehearsal.guest.iobuffer.base.options import IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors.creation import make_request
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusPlacement, BusWindow
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand, MappingOptions, Specification
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from tests.unit.guest.memory_pool import MemoryPool

MIB = 1 << 20
START = 0x0C00_0000
BUS = 0x10_0000
OUT, IN, BOTH = (True, False), (False, True), (True, True)


class Books:
    """A mapper. ``open`` is what is mapped: bus address -> (virtual address, length, rights)."""

    def __init__(self) -> None:
        self.open: dict[int, tuple[int, int, tuple[bool, bool]]] = {}
        self.room = 8
        self.stuck: set[int] = set()  # bus addresses that cannot be unmapped

    def map(
        self,
        va: int,
        length: int,
        *,
        read: bool,
        write: bool,
        address: int | None = None,
        alignment: int = 1,
        bits: int = 64,
        grant: bool = True,
    ) -> Entry:
        assert not grant, "what is prepared is granted, to the byte"
        assert va % PAGE == length % PAGE == 0
        if len(self.open) == self.room:
            raise IODeviceError("no more mappings", code=IOReturn.kIOReturnNoResources)
        if address is None:
            address = BUS
            while any(at < address + length and address < at + n for at, (_, n, _) in self._all()):
                address += max(alignment, PAGE)
            if address + length > 1 << bits:
                raise IONoMemoryError("too high", asked=length, largest=0)
        elif any(at < address + length and address < at + n for at, (_, n, _) in self._all()):
            raise IOBadArgumentError(f"bus address {address:#x} is taken")
        self.open[address] = va, length, (read, write)
        return Entry(self, address)

    def _all(self) -> list[tuple[int, tuple[int, int, tuple[bool, bool]]]]:
        return list(self.open.items())

    @property
    def only(self) -> tuple[int, int, int, tuple[bool, bool]]:
        ((address, rest),) = self.open.items()
        return address, *rest


class Entry:
    def __init__(self, books: Books, address: int) -> None:
        self._books, self.address = books, address

    def close(self) -> None:
        if self.address in self._books.stuck:
            raise IODeviceError(f"{self.address:#x} is stuck", code=IOReturn.kIOReturnVMError)
        del self._books.open[self.address]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    pool, made = MemoryPool(Zone("main", START, 4 * MIB), tmp_path), Books()
    dma_platform.use_pools(HeapPool(pool))
    dma_platform.iommu = made
    yield made
    assert dma_platform.iommu is made
    dma_platform.iommu = None
    dma_platform.use_pools()
    pool.close()
    os.close(pool.fd)
    assert not made.open, "nothing stays mapped"


def make(
    capacity: int, options: IOOptions | int = kIODirectionInOut, alignment: int = 1
) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, capacity, alignment)


@pytest.mark.parametrize(
    ("direction", "rights"),
    [
        (kIODirectionOut, OUT),
        (kIODirectionIn, IN),
        (kIODirectionInOut, BOTH),
        (kIODirectionNone, BOTH),
    ],
)
def test_buffer_is_mapped_for_its_direction_until_its_release(
    books: Books, direction: IOOptions, rights: tuple[bool, bool]
) -> None:
    with make(3 * PAGE + 5, direction) as buffer:
        assert books.only == (BUS, buffer.address, 4 * PAGE, rights)
        assert buffer.segments() == [(BUS, 3 * PAGE + 5)]
        assert buffer.segments(PAGE + 1, 7) == [(BUS + PAGE + 1, 7)]
        assert f"bus {BUS:#x}" in repr(buffer)
    assert not books.open


def test_small_buffers_have_pages_to_themselves(books: Books) -> None:
    with make(64) as first, make(64) as second:
        assert first.address // PAGE != second.address // PAGE
        assert {length for _, length, _ in books.open.values()} == {PAGE}


def test_alignment_and_mask_are_of_the_bus_address(books: Books) -> None:
    with make(PAGE), make(PAGE, alignment=4 * PAGE) as aligned:
        assert aligned.getPhysicalAddress() == BUS + 4 * PAGE
        masked = IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
            current_task(), kIODirectionIn, PAGE, 0x1F_F000
        )
        assert masked.getPhysicalAddress() < 1 << 21 < START
        masked.release()
        for mask, error in ((0xF_F000, IONoMemoryError), (0xFFF, IOBadArgumentError)):
            with pytest.raises(error):
                IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
                    current_task(), kIODirectionIn, 2 * PAGE, mask
                )
    assert not books.open


def test_rights_follow_the_preparations_at_one_address(books: Books) -> None:
    with make(PAGE, kIODirectionIn) as buffer:
        other = make(PAGE)
        buffer.prepare(kIODirectionOut)
        assert books.open[BUS][2] == BOTH
        buffer.prepare(kIODirectionOut)
        buffer.complete()
        assert books.open[BUS][2] == BOTH
        buffer.complete()
        assert books.open[BUS][2] == IN
        buffer.setDirection(kIODirectionOut)
        assert books.open[BUS][2] == OUT
        assert buffer.getPhysicalAddress() == BUS
        other.release()


class Engine:
    """A driver whose device is busy."""

    busy = True

    def in_flight(self) -> list[InFlight]:
        return [InFlight(BUS, 64, "a DMA")] if self.busy else []


@pytest.mark.usefixtures("books")
def test_rights_do_not_change_under_a_dma() -> None:
    engine = Engine()
    with make(PAGE, kIODirectionIn) as buffer:
        dma_activity.register(engine)
        with pytest.raises(IOBusyError, match="a DMA"):
            buffer.prepare(kIODirectionOut)
        assert buffer.prepared == 1
        buffer.prepare(kIODirectionIn)
        buffer.prepare(kIODirectionIn)
        buffer.complete()
        engine.busy = False
        buffer.prepare(kIODirectionOut)
        engine.busy = True
        with pytest.raises(IOBusyError, match="a DMA"):
            buffer.complete(kIODirectionOut)
        assert buffer.prepared == 3
        engine.busy = False
        buffer.complete()
        buffer.complete()


def test_dropped_buffer_is_taken_from_the_device(books: Books) -> None:
    buffer = make(PAGE)
    assert books.open
    with warnings.catch_warnings(record=True):
        del buffer
        gc.collect()
    assert not books.open
    make(PAGE).release()  # the heap has the memory back when it is next used


def test_refused_mapping_leaves_nothing(books: Books) -> None:
    books.room = 0
    free = pool_registry.named("main").free_size()
    with pytest.raises(IODeviceError, match="no more mappings"):
        make(PAGE)
    assert pool_registry.named("main").free_size() == free
    books.room = 1
    with make(PAGE) as buffer:
        assert buffer.prepared == 1


def test_contiguous_is_what_the_device_sees(books: Books) -> None:
    def contiguous(options: IOOptions) -> bool:
        return make_request(current_task(), options, 3 * PAGE, 1, None).contiguous

    both = kIODirectionIn | kIOMemoryPhysicallyContiguous
    assert not contiguous(both)
    assert contiguous(both | kIOMemoryMapperNone)
    assert contiguous(kIODirectionIn | kIOMemoryHostPhysicallyContiguous)
    dma_platform.iommu = None
    assert contiguous(both)
    dma_platform.iommu = books


def test_mapper_none_is_the_physical_address_or_refused(books: Books) -> None:
    with make(PAGE + 1, kIODirectionInOut | kIOMemoryMapperNone) as buffer:
        assert buffer.segments() == [(START, PAGE + 1)]
        assert list(books.open) == [START]
    pool_registry.wake()
    entry = books.map(0, PAGE, read=True, write=True, address=START, grant=False)
    with pytest.raises(IOUnsupportedError, match=r"kIOMemoryMapperNone: .*0xc000000") as error:
        make(PAGE, kIODirectionInOut | kIOMemoryMapperNone)
    assert error.value.address == START
    entry.close()


def test_part_of_a_mapping_that_fails_is_undone(books: Books) -> None:
    window = BusWindow(Reached(0x1000), 3 * PAGE, BusPlacement(physical=True))
    runs = [(0x5000, PAGE), (0x9000, 2 * PAGE)]
    window.allow(IODirection.kIODirectionOut, runs)
    assert books.open == {0x5000: (0x1000, PAGE, OUT), 0x9000: (0x2000, 2 * PAGE, OUT)}
    assert list(window.segments()) == runs
    window.close()
    books.room = 1
    with pytest.raises(IODeviceError):
        window.allow(IODirection.kIODirectionOut, runs)
    assert not books.open
    with pytest.raises(IONotReadyError, match="prepare"):
        window.segments()


def test_an_unmap_that_fails_is_told_and_can_be_done_again(books: Books) -> None:
    """Mappings that are left stay on record, and nothing is mapped twice."""
    window = BusWindow(Reached(0x1000), 3 * PAGE, BusPlacement(physical=True))
    runs = [(0x5000, PAGE), (0x9000, 2 * PAGE)]
    window.allow(IODirection.kIODirectionOut, runs)
    books.stuck = {0x5000}
    for call in (window.close, lambda: window.allow(IODirection.kIODirectionIn, runs)):
        with pytest.raises(IODeviceError, match="0x5000 is stuck"):
            call()
        assert list(books.open) == [0x5000]
        assert window.changes(IODirection.kIODirectionOut), "not all of it is mapped"
    books.stuck.clear()
    window.allow(IODirection.kIODirectionIn, runs)
    assert books.open == {0x5000: (0x1000, PAGE, IN), 0x9000: (0x2000, 2 * PAGE, IN)}
    window.close()
    window.close()


def test_release_fails_while_the_device_reaches_the_memory(books: Books) -> None:
    buffer = make(PAGE)
    books.stuck = {BUS}
    for _ in range(2):
        with pytest.raises(IODeviceError, match="stuck"):
            buffer.release()
        assert not buffer.released
    books.stuck.clear()
    buffer.release()
    assert not books.open


def test_unmapped_commands_use_physical_addresses(books: Books, pinner: Pinner) -> None:
    """As in IOKit, behind a mapper too; of a part, of several, of existing memory."""
    assert not pinner.pins
    with (
        make(2 * PAGE) as buffer,
        IOGeneralMemoryDescriptor.withAddressRange(
            0x5000_0064, PAGE + 100, kIODirectionInOut, current_task()
        ) as existing,
        IOSubMemoryDescriptor.withSubRange(buffer, 5, 10, kIODirectionInOut) as part,
        IOMultiMemoryDescriptor.withDescriptors([part, existing], kIODirectionInOut) as several,
    ):
        several.prepare()
        part.prepare()
        ranges = [(0x7000 + 100, PAGE - 100), (0x3000, 200)]
        places: list[tuple[IOMemoryDescriptor, list[tuple[int, int]]]] = [
            (buffer, [(START, 2 * PAGE)]),
            (part, [(START + 5, 10)]),
            (several, [(START + 5, 10), *ranges]),
        ]
        for memory, physical in places:
            assert memory.physical_segments() == physical
            for mapping, expected in (
                (MappingOptions.kUnmapped, physical),
                (MappingOptions.kMapped, memory.segments()),
            ):
                command = IODMACommand(Specification.of_device(mapping=mapping))
                with command:
                    command.setMemoryDescriptor(memory)
                    assert command.genIOVMSegments(0, 9)[0] == expected
            assert memory.segments() != physical
        assert buffer.physical_segments(3, 4) == [(START + 3, 4)]
        assert buffer.physical_segments(0, 0) == []
        part.complete()
        several.complete()
        with pytest.raises(IONotReadyError):
            existing.physical_segments()
    assert not books.open


def test_bounce_memory_of_an_unmapped_command_is_at_its_physical_address(books: Books) -> None:
    with make(PAGE) as buffer:
        specification = Specification.of_device(mapping=MappingOptions.kUnmapped, alignment=2)
        with IODMACommand(specification) as command:
            command.setMemoryDescriptor(buffer, autoPrepare=False)
            command.prepare(1, 100)
            ((address, length),) = command.genIOVMSegments(0, 9)[0]
            assert command.bounced == length == 100
            used = command.getIOMemoryDescriptor()
            assert used is not None
            assert used.segments() == used.physical_segments()
            assert address in books.open


def test_nobody_goes_around_a_mapper(books: Books) -> None:
    for mapping in MappingOptions:
        specification = Specification(mapping=mapping)
        if mapping is not MappingOptions.kBypassed:
            IODMACommand(specification)
            continue
        with pytest.raises(IOBadArgumentError, match="kBypassed"):
            IODMACommand(specification)
        with make(PAGE) as buffer:
            command = IODMACommand()
            command.setMemoryDescriptor(buffer, autoPrepare=False)
            with pytest.raises(IOBadArgumentError, match="kBypassed"):
                command.prepareWithSpecification(specification)
        dma_platform.iommu = None
        IODMACommand(specification)
        dma_platform.iommu = books


class Pinned:
    """Two runs of pages, of which the first begins 100 bytes on."""

    def __init__(self) -> None:
        self.closed = False

    def segments(self) -> list[tuple[int, int]]:
        return [(0x7000 + 100, PAGE - 100), (0x3000, 200)]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Pinner:
    """Pins memory, and remembers the pins."""

    def __init__(self) -> None:
        self.pins: list[Pinned] = []

    def pin(self, *_: object, **__: object) -> Pinned:
        self.pins.append(Pinned())
        return self.pins[-1]


@pytest.fixture
def pinner(monkeypatch: pytest.MonkeyPatch) -> Pinner:
    made = Pinner()
    monkeypatch.setattr(dma_platform, "pinner", made)
    return made


@pytest.mark.parametrize("kind", ["itself", "part", "several"])
def test_complete_fails_while_the_device_reaches_the_memory(
    books: Books, pinner: Pinner, kind: str
) -> None:
    """The preparation stays open and its pages stay pinned, until it is done."""
    memory = IOGeneralMemoryDescriptor.withAddressRange(
        0x5000_0064, PAGE + 100, kIODirectionOut, current_task()
    )
    outer: IOMemoryDescriptor = memory
    if kind == "part":
        outer = IOSubMemoryDescriptor.withSubRange(memory, 0, 200, kIODirectionOut)
    elif kind == "several":
        other = IOGeneralMemoryDescriptor.withAddressRange(
            0x6000_0064, PAGE + 100, kIODirectionOut, current_task()
        )
        outer = IOMultiMemoryDescriptor.withDescriptors([memory, other], kIODirectionOut)
    outer.prepare()
    outer.prepare()
    outer.complete()
    books.stuck = {BUS}
    for _ in range(2):
        with pytest.raises(IODeviceError, match="stuck"):
            outer.complete()
        assert (outer.prepared, memory.prepared) == (1, 1)
        assert not pinner.pins[0].closed
        assert list(books.open) == [BUS]
    books.stuck.clear()
    outer.complete()
    assert (outer.prepared, memory.prepared) == (0, 0)
    assert not books.open
    assert all(pin.closed for pin in pinner.pins)
    with pytest.raises(IONotReadyError):
        outer.complete()
    outer.release()


def test_a_dropped_buffer_whose_unmap_fails_is_freed_later(books: Books) -> None:
    """Nobody gets its memory before; the next release() of anything tries again."""
    free = pool_registry.named("main").free_size()
    held = [make(PAGE)]
    books.stuck = {BUS}
    with (
        pytest.warns(ResourceWarning, match="was not released"),
        pytest.warns(IOMistakeWarning, match=r"devices may still reach it"),
    ):
        held.clear()
    assert "stuck" in mistakes.taken()[0]
    make(PAGE).release()
    assert list(books.open) == [BUS]
    books.stuck.clear()
    make(PAGE).release()
    assert not books.open
    make(PAGE).release()
    assert pool_registry.named("main").free_size() == free


class Reached:
    """Memory that is always at one address."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __call__(self) -> Reached:
        return self

    def __enter__(self) -> int:
        return self._address

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("pinner")
def test_existing_memory_is_mapped_while_it_is_prepared(books: Books) -> None:
    place = 0x5000_0064
    memory = IOGeneralMemoryDescriptor.withAddressRange(
        place, PAGE + 100, kIODirectionOut, current_task()
    )
    memory.prepare()
    assert books.only == (BUS, place - 0x64, 2 * PAGE, OUT)
    assert memory.segments() == [(BUS + 0x64, PAGE + 100)]
    memory.complete()
    assert not books.open
    with pytest.raises(IONotReadyError):
        memory.segments()
    books.room = 0
    with pytest.raises(IODeviceError):
        memory.prepare()
    assert memory.prepared == 0
    memory.release()


@pytest.mark.usefixtures("books")
def test_fork_has_no_mapper() -> None:
    child = os.fork()
    if child == 0:
        os._exit(dma_platform.translated)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dma_platform.translated
