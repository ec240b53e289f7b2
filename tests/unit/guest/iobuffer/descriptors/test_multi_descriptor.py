# SPDX-License-Identifier: Apache-2.0
"""Descriptors made of others: parts, several in a row, guard pages, existing ranges."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.guest.iobuffer import current_task, kernel_task
from dma_rehearsal.guest.iobuffer.base import coherence, interfaces
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IOCannotWireError,
    IODeviceError,
    IONotAttachedError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base.flags import MapOptions, PrepareFlags, PurgeableState
from dma_rehearsal.guest.iobuffer.base.options import CacheMode, IODirection, kIOMapInhibitCache
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment
from dma_rehearsal.guest.iobuffer.descriptors.general_descriptor import IOGeneralMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.guard_pages import IOGuardPageMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_map import IOMemoryMap
from dma_rehearsal.guest.iobuffer.descriptors.multi_descriptor import IOMultiMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.sub_descriptor import IOSubMemoryDescriptor
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os import user_memory, virtual_memory
from tests.generated import examples
from tests.unit.guest.iobuffer.descriptors.pinned import Area, Pins
from tests.unit.guest.scattered import IN, IN_OUT, OUT, Bus, PurgeableMemory, Scattered

A, B = 0x2000_0000, 0x3000_0000
ANYWHERE = MapOptions.kIOMapAnywhere
NONE = IODirection.kIODirectionNone
_libc = ctypes.CDLL(None)
KEEP, NON_VOLATILE, VOLATILE, EMPTY = PurgeableState

multi_of = IOMultiMemoryDescriptor.withDescriptors
sub_of = IOSubMemoryDescriptor.withSubRange
guard_of = IOGuardPageMemoryDescriptor.withSize


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus()
    before = set(virtual_memory._live)
    yield made
    made.close()
    # Garbage of other tests may be collected meanwhile.
    assert not set(virtual_memory._live) - before, "a mapping is left"


@dataclass
class Control:
    """An access control that knows who may do what."""

    granted: list[tuple[int, int, IODirection]]
    room: int = 1 << 30

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        if len(self.granted) == self.room:
            raise IOReturnError("full", code=IOReturn.kIOReturnNoResources)
        self.granted.append((address, length, direction))
        return self.granted[-1]

    def withdraw(self, grant: object) -> None:
        self.granted.remove(grant)  # type: ignore[arg-type]

    def reclaim(self) -> None: ...


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control([])
    before, dma_platform.access_control = dma_platform.access_control, made
    yield made
    dma_platform.access_control = before
    assert not made.granted


def filled(
    bus: Bus,
    base: int,
    pages: int = 1,
    length: int | None = None,
    skip: int = 0,
    direction: IODirection = IN_OUT,
) -> Scattered:
    places = [base + 2 * page * PAGE for page in range(pages)]
    made = Scattered(
        bus, places, pages * PAGE - skip if length is None else length, direction, skip
    )
    made.writeBytes(0, random.Random(base).randbytes(made.length))
    return made


def all_of(memory: IOMemoryDescriptor) -> bytes:
    return memory.readBytes(0, memory.getLength())


def map_of(
    memory: IOMemoryDescriptor,
    offset: int = 0,
    length: int = 0,
    options: int = ANYWHERE,
    address: int = 0,
) -> IOMemoryMap:
    return memory.createMappingInTask(current_task(), address, options, offset, length)


def faults(address: int, *, store: bool = False) -> bool:
    """Whether an access would end this process; asked of the kernel, which says EFAULT.

    A fork could not tell: it does not have what is mapped here.
    """
    reader, writer = os.pipe()
    place = ctypes.c_void_p(address)
    try:
        if store:
            os.write(writer, b"\1")
            return bool(_libc.read(reader, place, 1) != 1)
        return bool(_libc.write(writer, place, 1) != 1)
    finally:
        os.close(reader)
        os.close(writer)


# A part.


def test_a_part_is_the_parents_memory(bus: Bus, control: Control) -> None:
    parent = filled(bus, A, 3)
    part = sub_of(parent, 100, PAGE, IN)
    inner = sub_of(part, 50, 200, IN)
    assert (part.getLength(), part.getDirection(), inner.parent) == (PAGE, IN, part)
    assert all_of(inner) == all_of(parent)[150:350]
    assert inner.writeBytes(10, b"here") == 4
    assert parent.readBytes(160, 4) == b"here"
    assert part.readBytes(PAGE - 1, 2) == b"", "the parent has more, the part has not"
    with pytest.raises(IONotReadyError):
        part.getPhysicalSegment()
    inner.prepare()
    assert control.granted == [(A + 150, 200, IN)], "and not the parent's other bytes"
    part.prepare()
    assert control.granted[1:] == [(A + 100, PAGE - 100, IN), (A + 2 * PAGE, 100, IN)]
    assert part.segments() == [(A + 100, PAGE - 100), (A + 2 * PAGE, 100)]
    assert part.getPhysicalSegment(PAGE - 100) == (A + 2 * PAGE, 100)
    assert parent.wires == 2
    part.complete()
    inner.complete()
    assert (parent.wires, parent.prepared) == (0, 0)
    assert "150 on" not in repr(part)
    assert "100 on" in repr(part)


def test_the_parent_stays_while_a_part_is_prepared(bus: Bus, control: Control) -> None:
    parent = filled(bus, A)
    part = sub_of(parent, 0, 64, OUT)
    part.prepare()
    with pytest.raises(IOBusyError, match="IOSubMemoryDescriptor"):
        parent.release()
    with pytest.raises(IONotReadyError, match=r"0 preparation\(s\)"):
        parent.complete()
    parent.prepare(OUT)
    part.prepare()
    parent.complete()  # its own: what the part has granted is still there
    assert control.granted == [(A, 64, OUT)] * 2
    part.complete()
    with pytest.raises(IOBusyError):
        parent.release()
    part.complete()
    parent.release()
    with pytest.raises(IONotAttachedError):
        part.getLength()


def test_a_released_part(bus: Bus) -> None:
    parent = filled(bus, A)
    with sub_of(parent, 8, 8, IN) as part:
        part.prepare()
        part.prepare()
        inner = sub_of(part, 0, 8, IN)
        inner.prepare()
        with pytest.raises(IOBusyError):
            part.release()
        inner.complete()
        mapped = map_of(part)
        with pytest.raises(IOBusyError, match="unmap first"):
            part.release()
        mapped.unmap()
    assert part.released
    assert parent.wires == 0, "what was prepared is undone"
    for call in (part.release, part.getLength, part.prepare):
        with pytest.raises(IONotAttachedError):
            call()


def test_parts_that_cannot_be(bus: Bus) -> None:
    parent = filled(bus, A, 1, 100)
    for offset, length in ((-1, 2), (0, 101), (101, 0), (0, -1)):
        with pytest.raises(IOBadArgumentError):
            sub_of(parent, offset, length, IN)
    with pytest.raises(IOBadArgumentError):
        sub_of(parent, 0, 1, 4)
    with pytest.raises(IOBadArgumentError):
        sub_of("memory", 0, 1, IN)  # type: ignore[arg-type]
    with pytest.raises(IOUnsupportedError, match="guards"):
        sub_of(guard_of(PAGE), 0, 1, NONE)
    out = filled(bus, B, direction=OUT)
    out.prepare()
    with pytest.raises(IOReturnError, match="NotWritable"):
        sub_of(out, 0, 1, IN).prepare()
    assert (out.wires, len(out._dma_users)) == (1, 0)
    out.complete()


def test_phys32_looks_at_the_part_alone(bus: Bus) -> None:
    memory = Scattered(bus, [A, 1 << 32], 2 * PAGE)
    to_phys32 = PrepareFlags.kIODirectionPrepareToPhys32
    low, high = sub_of(memory, 0, PAGE, IN), sub_of(memory, PAGE, PAGE, IN)
    low.prepare(None, to_phys32)
    with pytest.raises(IOReturnError, match="NoResources"):
        high.prepare(None, to_phys32)
    low.complete()
    assert memory.wires == 0


def test_a_part_is_mapped(bus: Bus) -> None:
    parent = filled(bus, A, 3)
    part = sub_of(parent, 100, PAGE, IN)
    with map_of(part, 10, 2000) as mapped:
        assert mapped.getMemoryDescriptor() is part
        assert mapped.getVirtualAddress() % PAGE == 110
        assert (mapped.offset, len(mapped)) == (10, 2000)
        view = mapped.view()
        assert bytes(view) == all_of(parent)[110:2110]
        view[0] ^= 0xFF
        assert parent.readBytes(110, 1) == bytes(view[:1])
        with pytest.raises(IOBusyError, match="view"):
            mapped.unmap()
        view.release()
    with map_of(part, options=ANYWHERE | MapOptions.kIOMapReadOnly) as mapped:
        assert mapped.view().readonly
    with pytest.raises(IOBadArgumentError):
        map_of(part, 0, PAGE + 1)


def test_a_dropped_mapping_of_a_part_warns(bus: Bus) -> None:
    part = sub_of(filled(bus, A), 0, 64, IN)
    mapped = map_of(part)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del mapped
    assert [each.category for each in caught] == [ResourceWarning]


# Several in a row.


def test_bytes_across_entries(bus: Bus) -> None:
    entries = [filled(bus, A, 1, 10), filled(bus, B, 2, 5000, skip=7), Scattered(bus, [], 0)]
    memory = multi_of(entries, IN_OUT)
    whole = all_of(entries[0]) + all_of(entries[1])
    assert memory.getLength() == 5010
    assert all_of(memory) == whole
    assert memory.readBytes(8, 4) == whole[8:12]
    assert memory.writeBytes(8, b"over") == 4
    assert (entries[0].readBytes(8, 2), entries[1].readBytes(0, 2)) == (b"ov", b"er")
    for offset, length in ((5000, 11), (-1, 1), (0, 5011)):
        assert memory.readBytes(offset, length) == b""
        assert memory.writeBytes(offset, bytes(length)) == 0
    assert memory.writeBytes(0, None) == 5010
    assert all_of(entries[1]) == bytes(5000)
    assert memory.entries == tuple(entries)
    assert "3 entries" in repr(memory)


def test_segments_merge_over_entries(bus: Bus, control: Control) -> None:
    one, two = Scattered(bus, [A], PAGE), Scattered(bus, [A + PAGE], PAGE)
    three = Scattered(bus, [B], 100)
    memory = multi_of([one, two, three], OUT)
    memory.prepare()
    assert memory.segments() == control_only(control) == [(A, 2 * PAGE), (B, 100)]
    assert memory.getPhysicalSegment(PAGE - 1) == (A + PAGE - 1, PAGE + 1)
    assert memory.getPhysicalSegment(2 * PAGE + 100) == (0, 0)
    with pytest.raises(IOBadArgumentError):
        memory.getPhysicalSegment(-1)
    for entry in (one, two, three):
        with pytest.raises(IOBusyError):
            entry.release()
    memory.complete()


def control_only(control: Control) -> list[Segment]:
    return [(address, length) for address, length, _ in control.granted]


def test_all_are_prepared_or_none(bus: Bus, control: Control) -> None:
    entries = [filled(bus, A), filled(bus, B), filled(bus, A + 8 * PAGE)]
    memory = multi_of([*entries, entries[0]], IN)
    entries[2].refuse = True
    with pytest.raises(IOCannotWireError):
        memory.prepare()
    assert [each.wires for each in entries] == [0, 0, 0]
    assert not any(each._dma_users for each in entries)
    entries[2].refuse = False
    control.room = 2
    with pytest.raises(IOReturnError, match="NoResources"):
        memory.prepare()
    assert [each.wires for each in entries] == [0, 0, 0]
    control.room = 4
    memory.prepare()
    assert [each.wires for each in entries] == [2, 1, 1], "an entry can be there twice"
    memory.complete()
    assert [each.wires for each in entries] == [0, 0, 0]
    assert not any(each._dma_users for each in entries)


def test_what_cannot_be_joined(bus: Bus) -> None:
    out = filled(bus, A, direction=OUT)
    assert multi_of([out, guard_of(1), Scattered(bus, [], 0, NONE)], OUT, True).getLength()
    for entries, direction in (
        ([], IN),
        ([out], IN),
        ([out], IN_OUT),
        (["memory"], IN),
        ([out], 7),
    ):
        with pytest.raises(IOBadArgumentError):
            multi_of(entries, direction)  # type: ignore[arg-type]
    guarded = multi_of([guard_of(1)], NONE)
    with pytest.raises(IOUnsupportedError, match="guard pages inside"):
        multi_of([guarded], NONE)
    with pytest.raises(IOUnsupportedError, match="guards"):
        sub_of(guarded, 0, 1, NONE)


def test_purgeable_states(bus: Bus) -> None:
    entries = [PurgeableMemory(bus, [A + page * PAGE], PAGE) for page in range(3)]
    memory = multi_of([*entries, guard_of(1)], IN)
    for states, wins in (
        ((NON_VOLATILE, NON_VOLATILE, NON_VOLATILE), NON_VOLATILE),
        ((NON_VOLATILE, VOLATILE, NON_VOLATILE), VOLATILE),
        ((VOLATILE, NON_VOLATILE, EMPTY), EMPTY),
        ((EMPTY, VOLATILE, VOLATILE), EMPTY),
    ):
        for entry, state in zip(entries, states, strict=True):
            entry.state = state
        assert memory.setPurgeable(KEEP) == wins
        assert [each.state for each in entries] == list(states)
    assert memory.setPurgeable(VOLATILE) == EMPTY
    assert [each.state for each in entries] == [VOLATILE] * 3
    with pytest.raises(IOBadArgumentError, match="KeepCurrent"):
        memory.setPurgeable(5)
    with pytest.raises(IOBadArgumentError, match="not purgeable"):
        multi_of([entries[0], filled(bus, B)], IN).setPurgeable(EMPTY)
    assert entries[0].state == VOLATILE, "nothing was set"


def test_dma_map_length(bus: Bus) -> None:
    """xnu: 2 bytes at a page's start; 4 over a page's end; 4 + 4 over swapped pages are 8."""
    memory = filled(bus, A, 3)
    assert sub_of(memory, PAGE, 2, IN).getDMAMapLength() == (PAGE, 0)
    assert sub_of(memory, PAGE - 2, 4, IN).getDMAMapLength() == (2 * PAGE, PAGE - 2)
    swapped = multi_of([sub_of(memory, 2 * PAGE, 4, IN), sub_of(memory, 0, 4, IN)], IN)
    assert swapped.getLength() == 8
    assert swapped.getDMAMapLength() == (2 * PAGE, 0)
    assert all_of(swapped) == memory.readBytes(2 * PAGE, 4) + memory.readBytes(0, 4)
    guarded = multi_of([guard_of(1), memory, guard_of(2 * PAGE)], IN)
    assert guarded.getDMAMapLength() == (6 * PAGE, 0)


def test_a_map_over_several_entries(bus: Bus) -> None:
    """xnu: it reads each entry's data in order."""
    entries = [
        filled(bus, A, 1, 100, PAGE - 100),
        filled(bus, B, 3),
        filled(bus, A + 8 * PAGE, 1, 9),
    ]
    memory = multi_of(entries, IN_OUT)
    with map_of(memory) as mapped, map_of(memory, 99, 2) as small:
        view = mapped.view()
        assert bytes(view) == all_of(memory)
        assert bytes(small.view()) == all_of(memory)[99:101]
        assert mapped.getVirtualAddress() % PAGE == PAGE - 100
        view[99:101] = b"XY"
        assert (entries[0].readBytes(99, 1), entries[1].readBytes(0, 1)) == (b"X", b"Y")
        assert mapped.cache_mode is CacheMode.COPYBACK
        with map_of(memory) as again:
            assert again is mapped, "a compatible mapping is shared"
            with map_of(memory, options=ANYWHERE | MapOptions.kIOMapUnique) as other:
                assert other.getVirtualAddress() != mapped.getVirtualAddress()
        with pytest.raises(IOBusyError, match="1 view"):
            mapped.unmap()
        view.release()
        with pytest.raises(IOBusyError, match="unmap first"):
            memory.release()
        with map_of(memory, options=ANYWHERE | MapOptions.kIOMapReference) as again:
            assert again is mapped
    with pytest.raises(IONotAttachedError, match="Reference"):
        map_of(memory, options=ANYWHERE | MapOptions.kIOMapReference)
    with map_of(memory, options=ANYWHERE | MapOptions.kIOMapReadOnly) as mapped:
        assert faults(mapped.getVirtualAddress(), store=True)
        assert not faults(mapped.getVirtualAddress())
    with map_of(memory, 100, PAGE) as within_one:
        assert bytes(within_one.view()) == entries[1].readBytes(0, PAGE)
        assert within_one.getMemoryDescriptor() is memory


def test_a_map_at_an_address(bus: Bus) -> None:
    memory = multi_of([filled(bus, A, 1, 100, PAGE - 100), filled(bus, B)], IN)
    with vm_hole(4) as address, map_of(memory, 0, 0, 0, address + PAGE - 100) as mapped:
        assert mapped.getVirtualAddress() == address + PAGE - 100
        assert bytes(mapped.view()) == all_of(memory)
        with pytest.raises(IOReturnError, match="NoSpace"):
            map_of(memory, 0, 0, 0, address + PAGE - 100)
    with pytest.raises(IOBadArgumentError, match="not a page"):
        map_of(memory, 0, 0, 0, address)


@contextmanager
def vm_hole(pages: int) -> Iterator[int]:
    """Addresses where nothing is mapped, and where no other thread's mmap will be.

    The kernel fills the gap with the highest addresses first. Pages at the low end of 1 GiB of
    free addresses are therefore the last that it gives.
    """
    reservation = virtual_memory.Reservation((1 << 30) + pages * PAGE)
    reservation.close()
    yield reservation.address


def test_a_hole_stays_free() -> None:
    with vm_hole(4) as hole:
        others = [virtual_memory.Reservation(PAGE) for _ in range(64)]
        virtual_memory.Reservation(4 * PAGE, at=hole).close()
    for each in others:
        each.close()


def test_maps_that_cannot_be_in_one_piece(bus: Bus) -> None:
    whole = filled(bus, A)
    for entries, why in (
        ([filled(bus, B, 1, 100), whole], "ends 100 bytes into a page"),
        ([whole, filled(bus, B + 8 * PAGE, 1, skip=4)], "begins 4 bytes into a page"),
    ):
        with pytest.raises(IOUnsupportedError, match=why):
            map_of(multi_of(entries, IN))
    with pytest.raises(IOUnsupportedError, match="map each"):
        multi_of([whole, whole], IN).createMappingInTask(kernel_task)


def test_a_map_that_fails_leaves_nothing(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [filled(bus, A), filled(bus, B)]

    def refuse(_: object) -> IOMemoryMap:
        raise IOUnsupportedError("not this one")

    monkeypatch.setattr(entries[1], "_map", refuse)
    with pytest.raises(IOUnsupportedError, match="not this one"):
        map_of(multi_of(entries, IN))


def test_entries_that_are_several(bus: Bus) -> None:
    inner = multi_of([filled(bus, A), filled(bus, B)], IN)
    memory = multi_of([inner, sub_of(filled(bus, A + 8 * PAGE, 3), PAGE, PAGE, IN)], IN)
    memory.prepare()
    assert memory.segments() == [(A, PAGE), (B, PAGE), (A + 10 * PAGE, PAGE)]
    memory.complete()
    with map_of(memory, 10, 2 * PAGE) as mapped:
        assert bytes(mapped.view()) == memory.readBytes(10, 2 * PAGE)
    memory.release()
    inner.release()


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=5),
    st.integers(0, PAGE - 1),
    st.data(),
)
@settings(max_examples=examples(60), deadline=None)
def test_any_part_of_any_entries(
    shape: list[tuple[int, bool]], skip: int, data: st.DataObject
) -> None:
    """Bytes, segments and mappings agree with the entries, joined."""
    total = sum(pages for pages, _ in shape) * PAGE - (0 if shape[0][1] else skip)
    offset = data.draw(st.integers(0, total - 1))
    length = data.draw(st.integers(1, total - offset))
    bus = Bus()
    entries: list[IOMemoryDescriptor] = []
    for number, (pages, part) in enumerate(shape):
        base = A + number * 64 * PAGE
        if part:
            entries.append(sub_of(filled(bus, base, pages + 2), PAGE, pages * PAGE, IN_OUT))
        else:
            entries.append(filled(bus, base, pages, skip=0 if number else skip))
    memory, joined = multi_of(entries, IN_OUT), b"".join(map(all_of, entries))
    assert memory.getLength() == total
    expected = joined[offset : offset + length]
    memory.prepare()
    assert memory.readBytes(offset, length) == bus.read(memory.segments(offset, length)) == expected
    with map_of(memory, offset, length) as mapped:
        assert bytes(mapped.view()) == expected
    assert memory.writeBytes(offset, expected[::-1]) == length
    assert all_of(memory) == joined[:offset] + expected[::-1] + joined[offset + length :]
    memory.complete()
    bus.close()


# Guards.


@pytest.mark.parametrize("left", [1, 4])
@pytest.mark.parametrize("right", [1, 3])
def test_guards(bus: Bus, left: int, right: int) -> None:
    """xnu: data intact, length exact, guards not accessible."""
    inner = filled(bus, A, 2)
    memory = multi_of([guard_of(left * PAGE), inner, guard_of(right * PAGE - 1)], IN_OUT)
    assert memory.getLength() == (left + 2 + right) * PAGE
    memory.prepare()
    assert memory.segments() == [(A, PAGE), (A + 2 * PAGE, PAGE)]
    assert memory.getPhysicalSegment(0) == (0, 0)
    assert memory.getPhysicalSegment(left * PAGE + 8) == (A + 8, PAGE - 8)
    assert memory.getPhysicalSegment((left + 2) * PAGE) == (0, 0)
    assert memory.readBytes(left * PAGE, 2 * PAGE) == all_of(inner)
    for offset, length in ((left * PAGE - 1, 2), ((left + 2) * PAGE - 1, 2), (0, 1)):
        assert memory.readBytes(offset, length) == b""
        assert memory.writeBytes(offset, bytes(length)) == 0
    assert memory.writeBytes(0, None) == 0
    with map_of(memory) as mapped:
        assert len(mapped) == memory.getLength()
        first = mapped.getVirtualAddress()
        view = mapped.view()
        assert bytes(view[left * PAGE : (left + 2) * PAGE]) == all_of(inner)
        for page in range(left + 2 + right):
            guards = not left <= page < left + 2
            assert faults(first + page * PAGE) == guards
            assert faults(first + page * PAGE + PAGE - 1, store=True) == guards
        view.release()
    memory.complete()


def test_memory_behind_a_guard_does_not_follow(bus: Bus) -> None:
    one, two = Scattered(bus, [A], PAGE), Scattered(bus, [A + PAGE], PAGE)
    memory = multi_of([one, guard_of(1), two], IN)
    memory.prepare()
    assert memory.getPhysicalSegment(0) == (A, PAGE)
    memory.complete()


def test_a_guard_alone() -> None:
    guard = guard_of(1)
    guard.prepare()
    assert (guard.getLength(), guard.segments(), guard.getPhysicalAddress()) == (PAGE, [], 0)
    assert (guard.readBytes(0, 1), guard.writeBytes(0, b"a")) == (b"", 0)
    with map_of(guard, 8, 8) as mapped:
        assert mapped.getVirtualAddress() % PAGE == 8
        assert faults(mapped.getVirtualAddress())
    guard.complete()
    guard.release()
    for size in (0, -1, True, 1 << 47, "1"):
        with pytest.raises(IOBadArgumentError):
            guard_of(size)  # type: ignore[arg-type]
    with pytest.raises(IOUnsupportedError):
        guard_of(1).createMappingInTask(kernel_task)
    part = multi_of([guard_of(1), guard_of(1)], NONE)
    for code, call in (
        (IOReturn.kIOReturnNotReadable, lambda: part.entries[0]._read(0, 1)),
        (IOReturn.kIOReturnNotWritable, lambda: part.entries[0]._write(0, b"a")),
    ):
        with pytest.raises(IOReturnError, match=code.name):
            call()


@pytest.mark.parametrize(
    ("option", "pages"),
    [(MapOptions.kIOMapGuardedSmall, 1), (MapOptions.kIOMapGuardedLarge, 16)],
)
def test_guarded_maps(bus: Bus, option: MapOptions, pages: int) -> None:
    memory = multi_of([filled(bus, A), filled(bus, B)], IN)
    with map_of(memory, options=ANYWHERE | option) as mapped:
        first = mapped.getVirtualAddress()
        assert bytes(mapped.view()) == all_of(memory)
        for address in (
            first - pages * PAGE,
            first - 1,
            first + 2 * PAGE,
            first + (2 + pages) * PAGE - 1,
        ):
            assert faults(address)


# Ranges that exist.


@pytest.fixture
def pins() -> Iterator[Pins]:
    made = Pins()
    before, dma_platform.pinner = dma_platform.pinner, made
    yield made
    dma_platform.pinner = before
    assert not made.open


def range_of(address: int, length: int, direction: int = IN_OUT) -> IOGeneralMemoryDescriptor:
    return IOGeneralMemoryDescriptor.withAddressRange(address, length, direction, current_task())


def test_existing_memory(pins: Pins, control: Control) -> None:
    area = Area(3, mmap.MAP_PRIVATE)
    memory = range_of(area.address + 100, 2 * PAGE, OUT)
    assert all_of(memory) == area.map[100 : 100 + 2 * PAGE]
    assert memory.writeBytes(5, b"abc") == 3
    assert area.map[105:108] == b"abc"
    with pytest.raises(IONotReadyError):
        memory.segments()
    memory.prepare()
    assert pins.open == [(area.address + 100, 2 * PAGE, False)], "a device may only read"
    assert len(memory.segments()) == len(control.granted) == 3
    assert memory.getPhysicalSegment(PAGE)[0] == (area.address + PAGE) * 2 + 100
    memory.prepare()
    assert len(pins.open) == 1
    memory.complete()
    assert pins.open
    memory.complete()
    memory.prepare()
    memory.release()
    assert not pins.open
    with range_of(area.address, 10, IN) as written:
        written.prepare()
        assert pins.open == [(area.address, 10, True)]
    pins.refuse = True
    with pytest.raises(IOCannotWireError):
        range_of(area.address, 10).prepare()
    empty = range_of(area.address, 0)
    empty.prepare()
    assert (empty.segments(), empty.getDMAMapLength(), all_of(empty)) == ([], (0, 0), b"")
    empty.complete()


def test_existing_memory_is_told_to_what_maintains_the_caches(pins: Pins) -> None:
    """From the first prepare to the last complete; what cannot be tracked is not prepared."""
    told: list[object] = []

    class Recorder(coherence.CoherentBus):
        line = 64

        def track_existing(
            self, memory: interfaces.Descriptor, address: int, length: int
        ) -> Callable[[], None]:
            told.append((memory, address, length))
            if length == PAGE:
                raise IODeviceError("too much")
            return lambda: told.append("end")

        def completed(
            self,
            memory: interfaces.Descriptor,  # noqa: ARG002
            offset: int,
            length: int,
        ) -> None:
            told.append((offset, length))

    area = Area(1)
    before, dma_platform.coherence = dma_platform.coherence, Recorder()
    try:
        with range_of(area.address, 128) as memory:
            for _ in range(2):
                memory.prepare()
            for _ in range(2):
                memory.complete()
            assert told == [(memory, area.address, 128), (0, 128), "end"]
        with pytest.raises(IODeviceError):
            range_of(area.address, PAGE).prepare()
    finally:
        dma_platform.coherence = before
    assert not pins.open


def test_memory_that_is_not_there() -> None:
    with vm_hole(2) as address:
        memory = range_of(address, PAGE)
        for call in (lambda: memory.readBytes(0, 1), lambda: memory.writeBytes(0, b"a")):
            with pytest.raises(IOReturnError, match="VMError") as caught:
                call()
            assert caught.value.address == address
        with pytest.raises(IOReturnError, match="nothing is mapped"):
            map_of(memory, options=ANYWHERE | MapOptions.kIOMapUnique)
    area = Area(1)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(area.address), PAGE, mmap.PROT_READ)
    with pytest.raises(IOReturnError, match="not that way"):
        range_of(area.address, 1).writeBytes(0, b"a")
    assert range_of(area.address, 1).readBytes(0, 1) == area.map[:1]


@pytest.mark.parametrize(
    ("address", "length", "error"),
    [
        (0, 1, IOBadArgumentError),
        (-PAGE, 1, IOBadArgumentError),
        (PAGE, -1, IOBadArgumentError),
        (PAGE, 1 << 47, IOBadArgumentError),
        ((1 << 64) - 1, 2, IOBadArgumentError),
        (True, 1, IOBadArgumentError),
        (PAGE, 1.5, IOBadArgumentError),
    ],
)
def test_ranges_that_cannot_be(address: int, length: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        range_of(address, length)


def test_other_tasks_and_no_ranges() -> None:
    with pytest.raises(IOUnsupportedError, match="kernel_task"):
        IOGeneralMemoryDescriptor.withAddressRange(PAGE, 1, IN, kernel_task)
    for task, ranges in (("me", [(PAGE, 1)]), (current_task(), [])):
        with pytest.raises(IOBadArgumentError):
            IOGeneralMemoryDescriptor.withRanges(ranges, IN, task)  # type: ignore[arg-type]
    with pytest.raises(IOUnsupportedError):
        range_of(PAGE, 1).createMappingInTask(kernel_task)


def test_the_original_address() -> None:
    for flags in mmap.MAP_SHARED, mmap.MAP_PRIVATE:
        area = Area(2, flags)
        memory = range_of(area.address + 8, PAGE)
        with map_of(memory) as mapped:
            assert mapped.getVirtualAddress() == area.address + 8
            assert bytes(mapped.view()) == area.map[8 : 8 + PAGE]
            with pytest.raises(IOBusyError):
                memory.release()
        with pytest.raises(IOBusyError, match="INHIBIT"):
            map_of(memory, options=ANYWHERE | int(kIOMapInhibitCache))
        memory.release()
        assert area.map[8], "the memory is still there"


def test_a_second_mapping() -> None:
    area = Area(3)
    memory = range_of(area.address + 8, 2 * PAGE)
    unique = ANYWHERE | MapOptions.kIOMapUnique
    with map_of(memory, options=unique) as mapped, map_of(memory, 100, 50) as part:
        assert mapped.getVirtualAddress() not in (area.address + 8, part.getVirtualAddress())
        assert bytes(mapped.view()) == area.map[8 : 8 + 2 * PAGE]
        assert bytes(part.view()) == area.map[108:158]
        part.view()[0] = 7
        assert area.map[108] == 7
    guarded = ANYWHERE | MapOptions.kIOMapReadOnly | MapOptions.kIOMapGuardedSmall
    with map_of(memory, options=guarded) as mapped:
        address = mapped.getVirtualAddress()
        assert faults(address, store=True)
        assert not faults(address)
        assert faults((address & -PAGE) - 1)
        assert faults((address & -PAGE) + 3 * PAGE)
    with vm_hole(4) as hole, map_of(memory, 0, 0, 0, hole + 8) as mapped:
        assert mapped.getVirtualAddress() == hole + 8
    for option in (MapOptions.kIOMemoryMapCopyOnWrite, MapOptions.kIOMapReference):
        with pytest.raises((IOUnsupportedError, IONotAttachedError)):
            map_of(memory, options=unique | option)
    private = Area(1, mmap.MAP_PRIVATE)
    with pytest.raises(IOUnsupportedError, match="private memory"):
        map_of(range_of(private.address, 64), options=unique)


def test_a_mapping_over_areas_of_several_kinds() -> None:
    """Pages of one range that the kernel keeps as several areas."""
    area = Area(3)
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(area.address + PAGE), PAGE, mmap.PROT_READ)
    with map_of(range_of(area.address, 3 * PAGE), 10, 2 * PAGE + 50) as mapped:
        assert bytes(mapped.view()) == area.map[10 : 60 + 2 * PAGE]


@pytest.mark.usefixtures("pins")
@pytest.mark.parametrize("order", [[0], [2, 0, 1]], ids=["1 range", "3 ranges"])
def test_sweep(order: list[int]) -> None:
    """xnu: at every place, the mapped word and the word read are the expected index."""
    pages = 16
    area = Area(len(order) * pages)
    ranges = [(area.address + each * pages * PAGE, pages * PAGE) for each in order]
    memory = IOGeneralMemoryDescriptor.withRanges(ranges, IN_OUT, current_task())
    words = memory.getLength() // 4
    for number, each in enumerate(order):
        first = number * pages * PAGE // 4
        content = b"".join(
            word.to_bytes(4, "little") for word in range(first, first + pages * 1024)
        )
        area.map[each * pages * PAGE : (each + 1) * pages * PAGE] = content
    memory.prepare()
    rng = random.Random(5)
    for offset in [0, *(4 * rng.randrange(words - 1) for _ in range(60)), 4 * (words - 1)]:
        for size in (4, min(3 * PAGE, 4 * words - offset), 4 * words - offset):
            with map_of(memory, offset, size) as mapped:
                assert user_memory.read(mapped.getVirtualAddress(), 4) == memory.readBytes(
                    offset, 4
                )
                last = mapped.getVirtualAddress() + size - 4
                assert (
                    int.from_bytes(user_memory.read(last, 4), "little") == (offset + size) // 4 - 1
                )
                assert int.from_bytes(memory.readBytes(offset, 4), "little") == offset // 4
    memory.complete()
    memory.release()


def test_the_driver_pins_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Pins()
    monkeypatch.setattr(dma_platform, "driver", driver)
    area = Area(1)
    with range_of(area.address, 8) as memory:
        memory.prepare()
        assert driver.open
