# SPDX-License-Identifier: Apache-2.0
"""The register file: any access of any width, against one byte at a time."""

from __future__ import annotations

from contextlib import nullcontext
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.trace import Trace


class Place(IntEnum):
    PLAIN = 0x00
    MASKED = 0x04
    FIXED = 0x08
    CLEARED = 0x0C
    # 0x10 is a hole
    COMMAND = 0x14


class Owner:
    def __init__(self) -> None:
        self.commands: list[int] = []
        self.reads = 0

    def write_command(self, value: int) -> None:
        self.commands.append(value)

    def read_fixed(self) -> int:
        self.reads += 1
        return 0x1122_3344


REGISTERS = (
    Register(Place.PLAIN, Access.RW, reset=5),
    Register(Place.MASKED, Access.RW, mask=0x00FF_FF00),
    Register(Place.FIXED),
    Register(Place.CLEARED, Access.W1C, reset=0xFF, mask=0x0F),
    Register(Place.COMMAND, Access.WO),
)


def test_each_access_kind() -> None:
    owner = Owner()
    file = RegisterFile(REGISTERS, owner)
    for place in Place:
        file.write(place, b"\xff\xff\xff\xff")
    values = {place: int.from_bytes(file.read(place, 4), "little") for place in Place}
    assert values == {
        Place.PLAIN: 0xFFFF_FFFF,
        Place.MASKED: 0x00FF_FF00,
        Place.FIXED: 0x1122_3344,
        Place.CLEARED: 0xF0,
        Place.COMMAND: 0,
    }
    assert owner.commands == [0xFFFF_FFFF]
    file.reset()
    assert file.read(Place.PLAIN, 4) == b"\x05\0\0\0"


class At(IntEnum):
    BEFORE = 0x0C
    FIRST = 0x10
    WITHIN = 0x20
    LAST = 0x3C
    BEHIND = 0x40


@pytest.mark.parametrize("place", list(At))
def test_a_reserved_range_ends_where_it_says(place: At) -> None:
    registers = RegisterFile()
    registers.reserve(0x10, 0x30, "the table")
    free = place in (At.BEFORE, At.BEHIND)
    with nullcontext() if free else pytest.raises(ValueError, match="the table is there"):
        registers.add((Register(place),), Owner())


def test_which_accesses_call_a_side_effect() -> None:
    """A read calls one of what is not hidden, a write of what takes something."""
    registers = RegisterFile()
    owner = Owner()
    registers.add(REGISTERS, owner)
    kinds = {
        name: (registers.calls("read", name), registers.calls("write", name))
        for name in ("plain", "masked", "fixed", "cleared", "command", "none_of_these")
    }
    assert kinds == {
        **dict.fromkeys(("plain", "masked", "cleared"), (True, True)),
        "fixed": (True, False),
        "command": (False, True),
        "none_of_these": (False, False),
    }
    assert registers.owned_by("plain", owner)
    assert not registers.owned_by("plain", Owner())
    assert not registers.owned_by("none_of_these", owner)
    assert [registers.name(at) for at in (0x00, 0x03, 0x07, 0x10, 0x17)] == [
        *("PLAIN", "PLAIN", "MASKED", "", "COMMAND")
    ]


def test_wide_and_unaligned_accesses() -> None:
    file = RegisterFile(REGISTERS, Owner())
    file.write(0, bytes(range(1, 9)))
    assert file.read(0, 8) == b"\1\2\3\4\0\6\7\0"
    assert file.read(3, 3) == b"\4\0\6"
    file.write(2, b"\xaa\xbb\xcc\xdd")
    assert file.read(0, 8) == b"\1\2\xaa\xbb\0\xdd\7\0"
    assert file.read(0x10, 4) == bytes(4)


def test_register_read_in_part_is_read_once() -> None:
    owner = Owner()
    file = RegisterFile(REGISTERS, owner)
    assert file.read(Place.FIXED + 1, 2) == b"\x33\x22"
    assert owner.reads == 1


accesses = st.tuples(st.integers(0, 0x1B), st.binary(min_size=1, max_size=9))


@given(st.lists(accesses, max_size=30))
def test_plain_registers_against_bytes(writes: list[tuple[int, bytes]]) -> None:
    file = RegisterFile(REGISTERS, Owner())
    model = bytearray(b"\5\0\0\0" + bytes(4))
    writable = bytes([0xFF] * 4 + [0, 0xFF, 0xFF, 0])
    for offset, data in writes:
        file.write(offset, data)
        for position, value in enumerate(data, offset):
            if position < 8 and writable[position]:
                model[position] = value
    assert file.read(0, 8) == model


bars = st.integers(0, 7)


@given(st.lists(st.tuples(bars, st.integers(0, 0x100F), st.binary(min_size=1, max_size=8))))
def test_no_access_to_the_exerciser_raises(accesses: list[tuple[int, int, bytes]]) -> None:
    """The server has checked the range; whatever is in it, the device answers."""
    exerciser = Exerciser(Trace())
    for bar, offset, data in accesses:
        if offset + len(data) <= exerciser.region_size(bar):
            exerciser.region_write(bar, offset, data)
            assert len(exerciser.region_read(bar, offset, len(data))) == len(data)
