# SPDX-License-Identifier: Apache-2.0
"""Mapped memory by address: where it lies, and what a forked child has of it."""

from __future__ import annotations

import ctypes
import errno
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionInOut,
    kIOMapAnywhere,
    kIOMapUnique,
    kIOMemoryMapCopyOnWrite,
    kIOMemoryPageable,
    kIOMemoryPurgeable,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.memory.kernel_pools import PageablePool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.virtual_memory import Mapping, MapPlacement, Reservation

PAGEABLE = kIODirectionInOut | kIOMemoryPageable
UNIQUE = kIOMapAnywhere | kIOMapUnique


@pytest.fixture
def pageable() -> Iterator[None]:
    dma_platform.use_pools(PageablePool())
    yield
    dma_platform.use_pools()


def protection_at(address: int) -> str:
    """Return the rights in /proc/self/maps (rwxp or rwxs), "" where nothing is mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, protection, *_ = line.split()
        first, end = (int(each, 16) for each in place.split("-"))
        if first <= address < end:
            return protection
    return ""


def told_by_a_child(ask: Callable[[], str]) -> str:
    """Fork, and return what ``ask`` says there."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(here, ask().encode())
        finally:
            os._exit(0)
    os.close(here)
    assert os.waitpid(pid, 0)[1] == 0
    with os.fdopen(there, "rb") as file:
        return file.read().decode()


@pytest.mark.usefixtures("pageable")
@pytest.mark.parametrize("purgeable", [False, True])
def test_a_child_has_no_pageable_buffer(purgeable: bool) -> None:
    """Nor a further mapping, nor a copy; its parent has all of them still."""
    options = PAGEABLE | kIOMemoryPurgeable if purgeable else PAGEABLE
    with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), options, 2 * PAGE) as buffer:
        task, addresses = current_task(), [buffer.address]
        maps = [buffer.createMappingInTask(task, 0, UNIQUE | kIOMemoryMapCopyOnWrite)]
        if not purgeable:
            maps.append(buffer.createMappingInTask(task, 0, UNIQUE))
        addresses += [each.getVirtualAddress() for each in maps]
        theirs = told_by_a_child(lambda: " ".join(map(protection_at, addresses)))
        assert set(theirs.split()) == {"---p"}
        assert {protection_at(each)[:2] for each in addresses} == {"rw"}
        for each in maps:
            each.unmap()


def test_a_child_has_other_memory_still() -> None:
    """A fork keeps memory that belongs to no buffer: existing ranges, reservations."""
    own = ctypes.create_string_buffer(b"here", PAGE)
    assert told_by_a_child(lambda: own.value.decode()) == "here"


def test_a_child_is_told_where_an_address_is_not_free() -> None:
    """Another handler of the fork may have mapped something there."""
    mapping = Mapping(-1, PAGE)
    address = mapping.address

    def taken() -> str:
        # The handler has put inaccessible memory there; run it once more over that.
        virtual_memory._live[address] = PAGE
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            virtual_memory.after_fork_in_child()
        return "; ".join(str(each.message) for each in seen)

    assert f"at {address:#x}" in told_by_a_child(taken)
    free = told_by_a_child(lambda: protection_at(address))
    assert free == "---p"
    mapping.close()


def test_a_warning_that_is_made_an_error_leaves_no_address_free() -> None:
    mappings = [Mapping(-1, PAGE) for _ in range(3)]
    addresses = [each.address for each in mappings]

    def raised() -> str:
        for address in addresses:
            virtual_memory._live[address] = PAGE
        virtual_memory._munmap(addresses[-1], PAGE)  # of what the handler has put there before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match=f"at {addresses[0]:#x}"):
                virtual_memory.after_fork_in_child()
        return protection_at(addresses[-1])

    assert told_by_a_child(raised) == "---p"
    for each in mappings:
        each.close()


def test_nothing_is_mapped_elsewhere_than_where_it_must_be() -> None:
    reservation = Reservation(4 * PAGE)
    free = reservation.address
    reservation.close()
    with_place = Mapping(-1, PAGE, 0, MapPlacement(at=free + PAGE))
    assert with_place.address == free + PAGE
    with pytest.raises(OSError, match="File exists"):
        Mapping(-1, PAGE, 0, MapPlacement(at=free + PAGE))
    with_place.close()


def test_a_kernel_that_takes_the_address_for_a_hint_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux before 4.17 does not know MAP_FIXED_NOREPLACE, and ignores the flag."""
    mapped: list[int] = []
    unmapped: list[tuple[int, int]] = []
    real, unmap = virtual_memory._mmap, virtual_memory._munmap

    def old(address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
        found = real(
            address, length, protection, flags & ~virtual_memory._MAP_FIXED_NOREPLACE, fd, offset
        )
        mapped.append(found)
        return int(found)

    def note(address: int, length: int) -> int:
        unmapped.append((address, length))
        return int(unmap(address, length))

    taken = Reservation(2 * PAGE)
    monkeypatch.setattr(virtual_memory, "_mmap", old)
    monkeypatch.setattr(virtual_memory, "_munmap", note)
    calls: list[Callable[[], object]] = [
        lambda: Mapping(-1, PAGE, 0, MapPlacement(at=taken.address)),
        lambda: Reservation(PAGE, taken.address),
    ]
    for call in calls:
        with pytest.raises(OSError, match="is not free") as error:
            call()
        assert error.value.errno == errno.EEXIST
        assert mapped[-1] != taken.address
        assert unmapped[-1] == (mapped[-1], PAGE)
    elsewhere = Mapping(-1, PAGE)
    assert elsewhere.address == mapped[-1], "anywhere is as good as before"
    elsewhere.close()
    taken.close()
