# SPDX-License-Identifier: Apache-2.0
"""RAM by physical address: where QEMU has it, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest

from dma_rehearsal.host_harness.machine import guest_memory
from dma_rehearsal.host_harness.machine.guest_memory import (
    GIB,
    RAM_BELOW_4G,
    RAM_SIZE,
    GuestMemory,
    NoMemory,
)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory.create()
    yield made
    made.close()


def test_what_does_not_fit_below_4_gib_lies_above(memory: GuestMemory) -> None:
    os.pwrite(memory.fileno(), b"below", RAM_BELOW_4G - 5)
    os.pwrite(memory.fileno(), b"above", RAM_BELOW_4G)
    os.pwrite(memory.fileno(), b"end", RAM_SIZE - 3)
    assert memory.read(RAM_BELOW_4G - 5, 5) == b"below"
    assert memory.read(4 * GIB, 5) == b"above"
    assert memory.read(4 * GIB + RAM_SIZE - RAM_BELOW_4G - 3, 3) == b"end"


@pytest.mark.parametrize(
    "address",
    [-8, RAM_BELOW_4G - 4, RAM_BELOW_4G, 4 * GIB - 4, 4 * GIB + RAM_SIZE - RAM_BELOW_4G - 4],
)
def test_there_is_no_other(memory: GuestMemory, address: int) -> None:
    with pytest.raises(NoMemory, match=f"8 bytes at {address:#x}"):
        memory.read(address, 8)


def test_file_that_became_shorter_is_no_memory(memory: GuestMemory) -> None:
    os.ftruncate(memory.fileno(), 4)
    with pytest.raises(NoMemory):
        memory.read(0, 8)


def test_carve_outs_lie_in_ram_where_devices_need_them() -> None:
    low, main, high = guest_memory.CARVE_OUTS
    above = guest_memory.RAM_SIZE - guest_memory.RAM_BELOW_4G
    assert low.base + low.size <= 1 << 24
    assert main.base + main.size <= 1 << 28 <= guest_memory.RAM_BELOW_4G
    assert high.base >= 1 << 32
    assert high.base + high.size <= (1 << 32) + above
    for each in guest_memory.CARVE_OUTS:
        assert each.base % 4096 == each.size % 4096 == 0
    ranges = sorted((each.base, each.base + each.size) for each in guest_memory.CARVE_OUTS)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))
