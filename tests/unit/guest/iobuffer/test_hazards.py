# SPDX-License-Identifier: Apache-2.0
"""Hazards that a buffer must survive: odd arguments, forgotten views, signals, failures."""

from __future__ import annotations

import array
import errno
import gc
import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBadArgumentError,
    IOBufferMemoryDescriptor,
    IOBusyError,
    IODeviceError,
    IONoMemoryError,
    IONotPermittedError,
    IOReturn,
    IOReturnError,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapGuardedSmall,
    kIOMapUnique,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory import pool_registry
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Extent
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.virtual_memory import reserve
from tests.unit.guest.memory_pool import MemoryPool, make

WORDS = memoryview(array.array("I", range(1, 17)))  # 16 items, 64 bytes


class Watching:
    """An access control that notes how much memory was free whenever it was told something."""

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool
        self.granted: list[int] = []
        self.withdrawn: list[int] = []
        self.broken = False

    def grant(self, address: int, length: int, direction: IODirection) -> object:  # noqa: ARG002
        self.granted.append(self._pool.free_size())
        return address

    def withdraw(self, grant: object) -> None:  # noqa: ARG002
        if self.broken:
            raise IODeviceError("the unit does not answer")
        self.withdrawn.append(self._pool.free_size())

    def reclaim(self) -> None: ...


@pytest.fixture
def watching(main: MemoryPool) -> Iterator[Watching]:
    control = Watching(main)
    before, dma_platform.access_control = dma_platform.access_control, control
    yield control
    dma_platform.access_control = before


# Data of another item size than a byte.


@pytest.mark.usefixtures("main")
def test_lengths_are_bytes_whatever_the_items_are() -> None:
    with make(64) as low, make(64) as high:
        first, second = sorted((low, high), key=IOBufferMemoryDescriptor.getPhysicalAddress)
        assert second.address == first.address + 64, "neighbours in one page"
        assert first.writeBytes(0, WORDS) == 64
        assert first.readBytes(0, 64) == WORDS.tobytes()
        assert first.writeBytes(16, WORDS) == 0, "80 bytes do not fit"
        assert first.writeBytes(48, WORDS, 16) == 16
        first.setLength(32)
        assert first.appendBytes(WORDS) == 32, "as much as there is room for"
        assert second.readBytes(0, 64) == bytes(64), "the neighbour's bytes are its own"


@pytest.mark.usefixtures("main")
def test_with_bytes_takes_all_of_them() -> None:
    with IOBufferMemoryDescriptor.withBytes(WORDS, kIODirectionInOut) as made:
        assert made.getCapacity() == 64
        assert made.readBytes(0, 64) == WORDS.tobytes()


# Views of mappings.


@pytest.mark.parametrize("capacity", [64, 5000])
@pytest.mark.parametrize("options", [kIOMapAnywhere, kIOMapAnywhere | kIOMapUnique])
def test_a_view_keeps_its_mapping_and_that_the_buffer(
    main: MemoryPool, capacity: int, options: int
) -> None:
    """Nobody can be given memory that a forgotten mapping's view still looks at."""
    buffer = make(capacity)
    view = buffer.createMappingInTask(current_task(), 0, options).view()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
    view[0] = 7
    with pytest.raises(IOBusyError, match=r"1 mapping\(s\) of it live"):
        buffer.release()
    assert buffer.readBytes(0, 1) == b"\x07"
    with pytest.warns(ResourceWarning, match="was not unmapped"):
        del view
    buffer.release()
    assert main.free_size() == main.size


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("options", [kIOMapAnywhere, kIOMapAnywhere | kIOMapUnique])
def test_unmap_refuses_while_a_view_lives(options: int) -> None:
    with make(64) as buffer:
        mapped = buffer.createMappingInTask(current_task(), 0, options)
        view = mapped.view()
        with pytest.raises(IOBusyError, match="1 view"):
            mapped.unmap()
        assert not mapped.unmapped
        view.release()
        mapped.unmap()


# The reach of devices.


@pytest.mark.parametrize("end", ["release", "drop"])
def test_devices_lose_memory_before_others_can_have_it(
    main: MemoryPool, watching: Watching, end: str
) -> None:
    buffer = make(5000)
    taken = main.free_size()
    if end == "release":
        buffer.release()
    else:
        with pytest.warns(ResourceWarning):
            del buffer
        assert pool_registry.known()["main"].free_size() == main.size
    assert (main.free_size(), watching.withdrawn) == (main.size, [taken])


def test_memory_stays_when_devices_cannot_be_kept_from_it(
    main: MemoryPool, watching: Watching
) -> None:
    buffer = make(5000)
    watching.broken = True
    with pytest.raises(IODeviceError, match="does not answer"):
        buffer.release()
    assert not buffer.released
    assert main.free_size() < main.size
    watching.broken = False
    buffer.release()
    assert main.free_size() == main.size


# Mappings at an address.


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("guard", [0, int(kIOMapGuardedSmall)])
def test_a_mapping_is_where_it_was_asked_for(guard: int) -> None:
    dma_platform.use_pools(PageablePool())
    free = reserve(16 * PAGE)
    free.close()
    with make(5000, 1, kIODirectionInOut | kIOMemoryPageable) as buffer:
        at = free.address + 4 * PAGE + 100
        with buffer.createMappingInTask(
            current_task(), at, kIOMapUnique | guard, PAGE + 100, 50
        ) as mapped:
            assert mapped.getVirtualAddress() == at
        for wrong, code in (
            (at + 1, IOReturn.kIOReturnBadArgument),
            (buffer.address + 100, IOReturn.kIOReturnNoSpace),
        ):
            with pytest.raises(IOReturnError, match=r"mapping|addresses") as refused:
                buffer.createMappingInTask(
                    current_task(), wrong, kIOMapUnique | guard, PAGE + 100, 50
                )
            assert refused.value.code is code


@pytest.mark.usefixtures("main")
def test_what_the_kernel_refuses_is_told_in_iokits_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    for number, code in (  # noqa: B007
        (errno.ENOMEM, IOReturn.kIOReturnNoMemory),
        (errno.EMFILE, IOReturn.kIOReturnNoResources),
        (errno.EACCES, IOReturn.kIOReturnVMError),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(virtual_memory, "_map", refuse)
            with pytest.raises(IOReturnError, match=r"5000|8192") as refused:
                PinnableBacking("pageable", os.memfd_create("pages"), 8192, mapped=True)
        assert refused.value.code is code


# Signals, and where memory lies.


def test_release_in_a_handler_in_the_midst_of_an_allocation(
    main: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadlock: the thread that the handler runs in has the heap's lock. It is freed later."""
    other = make(5000)
    place = other.getPhysicalAddress()
    sound = main.allocate

    def handler(_number: int, _frame: object) -> None:
        other.release()
        with pytest.raises(IONotPermittedError, match="in the midst"):
            pool_registry.named("main").free_size()

    def interrupted(length: int, alignment: int) -> Extent:
        signal.raise_signal(signal.SIGUSR1)
        return sound(length, alignment)

    monkeypatch.setattr(main, "allocate", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        made = make(5000)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert other.released
    assert made.getPhysicalAddress() != place
    made.release()
    assert pool_registry.named("main").free_size() == main.size


class Pins:
    """Pins memory at one place of the bus."""

    def __init__(self, place: int) -> None:
        self.place, self.open = place, 0

    def pin(self, address: int, length: int, *, write: bool = True) -> object:  # noqa: ARG002
        self.open += 1
        return Pinned([(self.place, length)], self)


class Pinned:
    """A pin of `Pins`."""

    def __init__(self, places: list[tuple[int, int]], pins: Pins) -> None:
        self._places, self._pins = places, pins

    def segments(self) -> list[tuple[int, int]]:
        return self._places

    def close(self) -> None:
        self._pins.open -= 1


@pytest.mark.parametrize("place", [0xFFFF_E000, 0xFFFF_F000])
def test_a_mask_holds_for_pageable_memory_too(place: int) -> None:
    """Where it lies is known when it is prepared; what is too high is refused then."""
    pins: Any = Pins(place)
    dma_platform.use_pools(PageablePool())
    dma_platform.driver = pins
    try:
        with IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
            current_task(), kIODirectionInOut | kIOMemoryPageable, 2 * PAGE, 0xFFFF_F000
        ) as memory:
            if place + 2 * PAGE <= 1 << 32:
                memory.prepare()
                assert memory.getPhysicalSegment() == (place, 2 * PAGE)
                memory.complete()
            else:
                with pytest.raises(IONoMemoryError, match="above 0xffffffff"):
                    memory.prepare()
                assert not memory.prepared
        assert pins.open == 0
    finally:
        dma_platform.driver = None
        dma_platform.use_pools()


@pytest.mark.usefixtures("main")
@pytest.mark.parametrize("mask", [0xF0FF_F000, 0xFFFF_F001, 5])
def test_a_mask_with_holes_is_refused(mask: int) -> None:
    with pytest.raises(IOBadArgumentError, match="must be contiguous"):
        IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
            current_task(), kIODirectionInOut, PAGE, mask
        )
