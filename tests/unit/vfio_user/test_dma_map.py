# SPDX-License-Identifier: Apache-2.0
"""DMA_MAP: what is mapped can be reached, what is refused changes nothing."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.errors import ReadOnly, Unmapped, WriteOnly
from dma_rehearsal.device.vfio_user.messages import Command
from dma_rehearsal.device.vfio_user.model import Client
from tests.unit.vfio_user.client import RawClient, Refused

PAGE = 4096
SIZE = 1 << 20


@pytest.fixture(params=["sealed", "unsealed"])
def memory(request: pytest.FixtureRequest) -> int:
    """Memory that is mapped here, and memory whose bytes the kernel copies."""
    found: int = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def seen(exerciser: Exerciser, client: RawClient) -> Client:
    """The client as the device sees it."""
    assert client is not None
    attached = exerciser.bus.client
    assert attached is not None
    return attached


def test_bytes_are_shared(client: RawClient, memory: int, seen: Client) -> None:
    os.pwrite(memory, b"from the guest", 0x3000)
    client.dma_map(0x10000, 0x4000, memory)
    (view,) = seen.memory(0x13000, 14, write=True)
    assert bytes(view) == b"from the guest"
    view[:] = b"from the device"[:14]
    assert os.pread(memory, 14, 0x3000) == b"from the devic"


def test_offset_into_the_file(client: RawClient, memory: int, seen: Client) -> None:
    os.pwrite(memory, b"here", 0x5000)
    client.dma_map(0x10000, PAGE, memory, offset=0x5000)
    assert bytes(seen.memory(0x10000, 4, write=False)[0]) == b"here"


def test_adjacent_mappings_are_reached_in_one_access(
    client: RawClient, memory: int, seen: Client
) -> None:
    client.dma_map(0x10000, PAGE, memory, offset=0x8000)
    client.dma_map(0x11000, PAGE, memory, offset=0x2000)
    os.pwrite(memory, b"ab", 0x8FFE)
    os.pwrite(memory, b"cd", 0x2000)
    views = seen.memory(0x10FFE, 4, write=False)
    assert b"".join(map(bytes, views)) == b"abcd"
    with pytest.raises(Unmapped) as fault:
        seen.memory(0x10FFE, PAGE + 3, write=False)
    assert fault.value.address == 0x12000


def test_read_only_mapping(client: RawClient, memory: int, seen: Client) -> None:
    client.dma_map(0x10000, PAGE, memory, flags=wire.DmaMapFlag.READ)
    assert seen.memory(0x10000, PAGE, write=False)
    with pytest.raises(ReadOnly):
        seen.memory(0x10000, 1, write=True)


def test_memory_without_a_descriptor_cannot_be_reached_yet(client: RawClient, seen: Client) -> None:
    client.dma_map(0x10000, PAGE, None)
    with pytest.raises(Unmapped):
        seen.memory(0x10000, 1, write=False)


@pytest.mark.parametrize("address", [0, 0xFFF, 0x11000, 0xFFFF_FFFF_FFFF_FFFF])
def test_around_a_mapping_is_unmapped(
    client: RawClient, memory: int, seen: Client, address: int
) -> None:
    client.dma_map(0x10000, PAGE, memory)
    with pytest.raises(Unmapped):
        seen.memory(address, 1, write=False)


def test_last_page_of_the_address_space(client: RawClient, memory: int, seen: Client) -> None:
    client.dma_map((1 << 64) - PAGE, PAGE, memory)
    assert seen.memory((1 << 64) - 1, 1, write=True)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": 0}, errno.EINVAL),
        ({"size": 1}, errno.EINVAL),
        ({"size": PAGE + 1}, errno.EINVAL),
        ({"address": 0x10001}, errno.EINVAL),
        ({"address": 0x10800}, errno.EINVAL),
        ({"offset": 1}, errno.EINVAL),
        ({"offset": SIZE}, errno.EINVAL),
        ({"offset": SIZE - PAGE, "size": 2 * PAGE}, errno.EINVAL),
        ({"offset": (1 << 64) - PAGE}, errno.EINVAL),
        ({"size": SIZE + PAGE}, errno.EINVAL),
        ({"size": 1 << 63}, errno.EINVAL),
        ({"address": (1 << 64) - PAGE, "size": 2 * PAGE}, errno.EINVAL),
        ({"address": 1 << 63, "size": 1 << 63}, errno.EINVAL),
        ({"flags": 0}, errno.EINVAL),
        ({"flags": 4}, errno.EINVAL),
        ({"flags": 7}, errno.EINVAL),
        ({"flags": 1 << 31 | 3}, errno.EINVAL),
    ],
)
def test_refused_and_nothing_mapped(
    client: RawClient, memory: int, seen: Client, changes: dict[str, int], code: int
) -> None:
    request = {"address": 0x10000, "size": PAGE, "offset": 0, "flags": 3} | changes
    with pytest.raises(Refused) as refusal:
        client.dma_map(
            request["address"],
            request["size"],
            memory,
            offset=request["offset"],
            flags=request["flags"],
        )
    assert refusal.value.errno == code
    with pytest.raises(Unmapped):
        seen.memory(request["address"] & ~0xFFF, 1, write=False)
    client.dma_map(0x10000, PAGE, memory)


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x10000, 0x4000), (0x10000, PAGE), (0x13000, PAGE), (0xF000, 2 * PAGE), (0xF000, 0x8000)],
)
def test_overlap_is_refused(client: RawClient, memory: int, address: int, size: int) -> None:
    client.dma_map(0x10000, 0x4000, memory)
    with pytest.raises(Refused) as refusal:
        client.dma_map(address, size, memory)
    assert refusal.value.errno == errno.EEXIST
    client.dma_map(0xF000, PAGE, memory)
    client.dma_map(0x14000, PAGE, memory)


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_wrong_length(client: RawClient, memory: int, length: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.DMA_MAP, bytes(length), descriptors=[memory])
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("argsz", [0, 31])
def test_argsz_without_room(client: RawClient, memory: int, argsz: int) -> None:
    payload = wire.DmaMap.STRUCT.pack(argsz, 3, 0, 0x10000, PAGE)
    with pytest.raises(Refused) as refusal:
        client.call(Command.DMA_MAP, payload, descriptors=[memory])
    assert refusal.value.errno == errno.EINVAL


def test_two_descriptors(client: RawClient, memory: int) -> None:
    payload = wire.DmaMap.STRUCT.pack(32, 3, 0, 0x10000, PAGE)
    with pytest.raises(Refused) as refusal:
        client.call(Command.DMA_MAP, payload, descriptors=[memory, memory])
    assert refusal.value.errno == errno.EINVAL


def test_descriptor_that_cannot_be_mapped(client: RawClient) -> None:
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(Refused) as refusal:
            client.dma_map(0x10000, PAGE, read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("access", "allowed"),
    [(os.O_RDONLY, {1}), (os.O_WRONLY, {2}), (os.O_RDWR, {1, 2, 3})],
)
def test_descriptor_and_flags(
    client: RawClient, memory: int, seen: Client, access: int, allowed: set[int]
) -> None:
    """A right that the descriptor lacks would be missed later, in the middle of a DMA."""
    os.pwrite(memory, b"before", 0)
    descriptor = os.open(f"/proc/self/fd/{memory}", access)
    try:
        for flags in (1, 2, 3):
            address = flags << 16
            if flags not in allowed:
                with pytest.raises(Refused) as refusal:
                    client.dma_map(address, PAGE, descriptor, flags=flags)
                assert refusal.value.errno == errno.EINVAL
                continue
            client.dma_map(address, PAGE, descriptor, flags=flags)
            os.pwrite(memory, b"before", 0)
            if flags & 1:
                assert bytes(seen.memory(address, 6, write=False)[0]) == b"before"
            else:
                with pytest.raises(WriteOnly) as fault:
                    seen.memory(address, 6, write=False)
                assert fault.value.address == address
                assert seen.mapped_range(address, write=False) is None
            if flags & 2:
                seen.memory(address, 6, write=True)[0][:] = b"behind"
                assert os.pread(memory, 6, 0) == b"behind"
            else:
                with pytest.raises(ReadOnly):
                    seen.memory(address, 6, write=True)
                assert seen.mapped_range(address, write=True) is None
    finally:
        os.close(descriptor)


def test_file_that_grew_is_mapped_again(client: RawClient, memory: int, seen: Client) -> None:
    client.dma_map(0x10000, PAGE, memory)
    os.ftruncate(memory, 2 * SIZE)
    os.pwrite(memory, b"new", SIZE)
    client.dma_map(0x20000, PAGE, memory, offset=SIZE)
    assert bytes(seen.memory(0x20000, 3, write=False)[0]) == b"new"
    assert seen.memory(0x10000, PAGE, write=True)


def test_places_name_the_memory_whatever_maps_it(
    client: RawClient, memory: int, seen: Client
) -> None:
    """Two mappings of one page are one place; what was found outlives the unmap."""
    client.dma_map(0x10000, 2 * PAGE, memory, offset=0x4000)
    client.dma_map(0x90000, PAGE, memory, offset=0x5000)
    (first,) = seen.file_ranges(0x11010, 16, write=True)
    (second,) = seen.file_ranges(0x90010, 16, write=False)
    assert (first.file, first.offset) == (second.file, second.offset) == (second.file, 0x5010)
    assert (first.length, first.address, second.address) == (16, 0x11010, 0x90010)
    crossing = seen.file_ranges(0x10FF0, 32, write=False)
    assert [(each.offset, each.length) for each in crossing] == [(0x4FF0, 32)]
    client.dma_unmap(0x10000, 2 * PAGE)
    client.dma_unmap(0x90000, PAGE)
    os.pwrite(memory, b"still here", first.offset)
    assert bytes(first.memory[first.offset : first.offset + 10]) == b"still here"
    with pytest.raises(Unmapped):
        seen.file_ranges(0x11010, 16, write=False)


def test_places_in_a_file_that_was_cut(client: RawClient, unsealed: int, seen: Client) -> None:
    memory = unsealed
    client.dma_map(0x10000, PAGE, memory)
    (place,) = seen.file_ranges(0x10000, PAGE, write=False)
    assert place.holds(PAGE)
    os.ftruncate(memory, 0)
    assert not place.holds(PAGE)
    client.dma_unmap(0x10000, PAGE)
    assert not place.holds(PAGE)


def test_a_window_goes_with_its_mapping(client: RawClient, seen: Client) -> None:
    """One of memory that cannot shrink is kept, but no longer than the map stays as it is."""
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.truncate(sealed, 4 * PAGE)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    client.dma_map(0x10000, 2 * PAGE, sealed, flags=wire.DmaMapFlag.READ)
    for _ in range(2):
        found = seen.mapped_range(0x10000 + PAGE, write=False)
        assert found is not None
        assert (found.address, found.end) == (0x10000, 0x10000 + 2 * PAGE)
        assert seen.mapped_range(0x10000, write=True) is None, "read-only"
        assert seen.mapped_range(0x10000 + 2 * PAGE, write=False) is None
    os.truncate(sealed, 8 * PAGE)
    client.dma_map(0x20000, PAGE, sealed, offset=6 * PAGE)  # the file is mapped anew
    found = seen.mapped_range(0x10000, write=False)
    assert found is not None
    assert found.memory[:4] == bytes(4)
    client.dma_unmap(0x10000, 2 * PAGE)
    assert seen.mapped_range(0x10000, write=False) is None
    assert seen.mapped_range(0x20000, write=True) is not None
    client.dma_unmap(0, 0, wire.DmaUnmapFlag.ALL)
    assert seen.mapped_range(0x20000, write=False) is None
    os.close(sealed)
