# SPDX-License-Identifier: Apache-2.0
"""TXN_TRACE: five words for each access of software, bounded, in the order of arrival."""

from __future__ import annotations

import struct

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import TXN_TRACE_CAPACITY, TXN_TRACE_EMPTY, Reg
from tests.unit.device.fakes import read32, write32

READ, CONFIG = 1 << 1, 1 << 2


def trace(exerciser: Exerciser) -> list[tuple[int, int, int]]:
    """Read the trace to its end: attributes, address, data."""
    found: list[tuple[int, int, int]] = []
    for _ in range(TXN_TRACE_CAPACITY + 1):
        first = read32(exerciser, 0, Reg.TXN_TRACE)
        if first == TXN_TRACE_EMPTY:
            return found
        low, high, data, upper = (read32(exerciser, 0, Reg.TXN_TRACE) for _ in range(4))
        found.append((first, low | high << 32, data | upper << 32))
    raise AssertionError("the trace has no end")


def control(exerciser: Exerciser, on: int) -> None:
    write32(exerciser, 0, Reg.TXN_CTRL, on)


@pytest.mark.parametrize(("size", "bit"), [(1, 16), (2, 17), (4, 18), (8, 19)])
def test_sizes_as_they_came(exerciser: Exerciser, size: int, bit: int) -> None:
    exerciser.region_write(7, 4, b"\x06\x00")
    write32(exerciser, 7, 0x14, 0x9000_0000)
    control(exerciser, 1)
    data = bytes(range(1, size + 1))
    exerciser.region_write(1, 0x20, data)
    exerciser.region_read(1, 0x20, size)
    control(exerciser, 0)
    value = int.from_bytes(data, "little")
    assert trace(exerciser) == [
        (1 << bit, 0x9000_0020, value),
        (1 << bit | READ, 0x9000_0020, value),
    ]


def test_configuration_accesses(exerciser: Exerciser) -> None:
    control(exerciser, 1)
    exerciser.region_write(7, 0x3C, b"\x0b")
    exerciser.region_read(7, 0, 4)
    control(exerciser, 0)
    exerciser.region_read(7, 0, 4)
    assert trace(exerciser) == [
        (1 << 16 | CONFIG, 0x3C, 0x0B),
        (1 << 18 | READ | CONFIG, 0, 0xED01_13B5),
    ]


def test_first_ones_are_kept_and_the_trace_is_not_traced(exerciser: Exerciser) -> None:
    control(exerciser, 1)
    for offset in range(100):
        exerciser.region_write(1, offset, b"x")
        read32(exerciser, 0, Reg.TXN_CTRL)
    found = trace(exerciser)
    assert [address for _, address, _ in found] == list(range(TXN_TRACE_CAPACITY))
    control(exerciser, 1)
    exerciser.region_write(1, 0, b"x")
    assert trace(exerciser) == [], "it is full until it is started anew"
    control(exerciser, 0)
    control(exerciser, 1)
    exerciser.region_write(1, 5, b"x")
    assert [address for _, address, _ in trace(exerciser)] == [5]


def test_off_at_first_and_after_a_reset(exerciser: Exerciser) -> None:
    exerciser.region_read(1, 0, 4)
    assert trace(exerciser) == []
    control(exerciser, 1)
    exerciser.region_read(1, 0, 4)
    exerciser.region_write(7, 0x48, struct.pack("<H", 1 << 15))
    exerciser.region_read(1, 0, 4)
    assert trace(exerciser) == []
