# SPDX-License-Identifier: Apache-2.0
"""DMA_UNMAP: what is gone cannot be reached, and nothing else is gone."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import Command, DmaUnmapFlag
from tests.unit.vfio_user.client import RawClient, Refused

PAGE = 4096


def mapped(exerciser: Exerciser, address: int) -> bool:
    client = exerciser.bus.client
    assert client is not None
    try:
        client.memory(address, 1, write=False)
    except Exception:
        return False
    return True


def maps_of(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


def test_reply_repeats_the_request(client: RawClient, memory: int) -> None:
    client.dma_map(0x10000, PAGE, memory)
    assert client.dma_unmap(0x10000, PAGE) == wire.DmaUnmap.STRUCT.pack(24, 0, 0x10000, PAGE)


def test_one_of_three(client: RawClient, memory: int, exerciser: Exerciser) -> None:
    for address in (0x10000, 0x11000, 0x12000):
        client.dma_map(address, PAGE, memory)
    client.dma_unmap(0x11000, PAGE)
    assert [mapped(exerciser, each) for each in (0x10000, 0x11000, 0x12000)] == [True, False, True]
    client.dma_map(0x11000, PAGE, memory)


def test_range_over_several(client: RawClient, memory: int, exerciser: Exerciser) -> None:
    for address in (0x10000, 0x12000, 0x20000):
        client.dma_map(address, PAGE, memory)
    client.dma_unmap(0, 0x14000)
    assert [mapped(exerciser, each) for each in (0x10000, 0x12000, 0x20000)] == [False, False, True]


def test_of_nothing_is_accepted(client: RawClient) -> None:
    """QEMU's unmaps do not match its maps one to one."""
    client.dma_unmap(0x10000, PAGE)


def test_of_all(client: RawClient, memory: int, exerciser: Exerciser) -> None:
    for address in (0x10000, 0x12000, 1 << 40):
        client.dma_map(address, PAGE, memory)
    client.dma_unmap(0, 0, DmaUnmapFlag.ALL)
    assert not any(mapped(exerciser, each) for each in (0x10000, 0x12000, 1 << 40))


@pytest.mark.parametrize(("address", "size"), [(0x11000, PAGE), (0x10000, PAGE), (0xF000, 0x2000)])
def test_that_cuts_a_mapping_is_refused(
    client: RawClient, memory: int, exerciser: Exerciser, address: int, size: int
) -> None:
    client.dma_map(0x10000, 0x3000, memory)
    with pytest.raises(Refused) as refusal:
        client.dma_unmap(address, size)
    assert refusal.value.errno == errno.EINVAL
    assert mapped(exerciser, 0x12FFF)


@pytest.mark.parametrize(
    ("address", "size", "flags", "code"),
    [
        (0x10000, 0, 0, errno.EINVAL),
        (0x10001, PAGE, 0, errno.EINVAL),
        (0x10000, PAGE + 1, 0, errno.EINVAL),
        ((1 << 64) - PAGE, 2 * PAGE, 0, errno.EINVAL),
        (0x10000, PAGE, DmaUnmapFlag.ALL, errno.EINVAL),
        (0x10000, PAGE, DmaUnmapFlag.GET_DIRTY_BITMAP, errno.ENOTSUP),
        (0, 0, DmaUnmapFlag.GET_DIRTY_BITMAP | DmaUnmapFlag.ALL, errno.EINVAL),
        (0x10000, PAGE, 4, errno.EINVAL),
        (0x10000, PAGE, 1 << 31, errno.EINVAL),
    ],
)
def test_refused_and_nothing_unmapped(
    client: RawClient,
    memory: int,
    exerciser: Exerciser,
    address: int,
    size: int,
    flags: int,
    code: int,
) -> None:
    client.dma_map(0x10000, PAGE, memory)
    with pytest.raises(Refused) as refusal:
        client.dma_unmap(address, size, flags)
    assert refusal.value.errno == code
    assert mapped(exerciser, 0x10000)


@pytest.mark.parametrize("length", [0, 8, 23, 25, 40])
def test_wrong_length(client: RawClient, length: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.DMA_UNMAP, bytes(length))
    assert refusal.value.errno == errno.EINVAL


def test_last_unmap_gives_the_file_back(client: RawClient) -> None:
    descriptor = os.memfd_create("counted", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 16 * PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    for page in range(16):
        client.dma_map(0x10000 + page * PAGE, PAGE, descriptor, offset=page * PAGE)
    assert maps_of("/memfd:counted") == 1, "one mmap for each file, however many mappings"
    client.dma_unmap(0x10000, 16 * PAGE)
    assert maps_of("/memfd:counted") == 0
    os.close(descriptor)
