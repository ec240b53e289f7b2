# SPDX-License-Identifier: Apache-2.0
"""Arrays, registers of 8 to 64 bits, and accesses of other widths: each rule by an example."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.registers import (
    Access,
    Register,
    RegisterArray,
    RegisterFile,
    Trigger,
)


class Reg(IntEnum):
    BASE = 0x00
    CALL = 0x08
    FIRST = 0x10
    LAST = 0x1C  # off its 8 bytes
    WORD = 0x26
    BYTE = 0x29
    MASK_SET = 0x30
    MASK_CLEAR = 0x34
    EVENTS = 0x38
    TAIL = 0x100
    HEAD = 0x104


class Owner:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def write_base(self, value: int) -> None:
        self.calls.append(("base", value))

    def write_call(self, value: int) -> None:
        self.calls.append(("call", value))

    def write_first(self, value: int) -> None:
        self.calls.append(("first", value))

    def write_last(self, value: int) -> None:
        self.calls.append(("last", value))

    def write_mask_set(self, value: int) -> None:
        self.calls.append(("mask_set", value))

    def write_tail(self, index: int, value: int) -> None:
        self.calls.append(("tail", index, value))

    def read_head(self, index: int) -> int:
        self.calls.append(("head", index))
        return 0x1000 + index


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def file(owner: Owner) -> RegisterFile:
    return RegisterFile(
        (
            Register(Reg.BASE, Access.RW, bits=64),
            Register(Reg.CALL, Access.WO, bits=64),
            Register(Reg.FIRST, Access.RW, bits=64, trigger=Trigger.FIRST),
            Register(Reg.LAST, Access.RW, bits=64, trigger=Trigger.LAST),
            Register(Reg.WORD, Access.RW, bits=16),
            Register(Reg.BYTE, Access.RW, bits=8),
            Register(Reg.MASK_SET, Access.W1S, mask=0xFFFF),
            Register(Reg.MASK_CLEAR, Access.W1C),
            Register(Reg.EVENTS, Access.RC),
            RegisterArray(Reg.TAIL, 4, 8, Access.RW),
            RegisterArray(Reg.HEAD, 4, 8),
        ),
        owner,
    )


def test_an_access_of_64_bits_is_one_access(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.BASE, bytes(range(8)))
    assert owner.calls == [("base", 0x0706050403020100)]
    assert file[Reg.BASE] == 0x0706050403020100
    assert file.read(Reg.BASE, 8) == bytes(range(8))


def test_halves_are_stored_apart_and_each_is_an_access(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.BASE + 4, b"\1\0\0\0")
    file.write(Reg.BASE, b"\2\0\0\0")
    assert owner.calls == [("base", 0x1_0000_0000), ("base", 0x1_0000_0002)]
    assert file.read(Reg.BASE + 4, 4) == b"\1\0\0\0"


def test_the_half_of_a_command_that_is_not_written_is_0(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.CALL, b"\xff" * 8)
    file.write(Reg.CALL + 4, b"\1\0\0\0")
    assert owner.calls == [("call", (1 << 64) - 1), ("call", 0x1_0000_0000)]
    assert file.read(Reg.CALL, 8) == bytes(8)


@pytest.mark.parametrize(("place", "name"), [(Reg.FIRST, "first"), (Reg.LAST, "last")])
@pytest.mark.parametrize("order", [(0, 4), (4, 0)])
def test_a_trigger_acts_once_with_both_halves(
    file: RegisterFile, owner: Owner, place: Reg, name: str, order: tuple[int, int]
) -> None:
    for half in order:
        file.write(place + half, b"\7\0\0\0")
        acts = (half == 0) == (name == "first")
        assert file.acts(place + half, 4) == acts
    complete = order[1] == (0 if name == "first" else 4)
    value = 0x7_0000_0007 if complete else 7 << (0 if name == "first" else 32)
    assert owner.calls == [(name, value)]
    file.write(place, b"\1" * 8)
    assert owner.calls[1:] == [(name, 0x0101_0101_0101_0101)]


def test_a_byte_at_the_end_triggers_as_the_half_does(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.LAST + 6, b"\1")
    assert owner.calls == []
    file.write(Reg.LAST + 7, b"\2")
    assert owner.calls == [("last", 0x0201_0000_0000_0000)]


def test_registers_of_8_and_16_bits(file: RegisterFile) -> None:
    file.write(0x24, bytes(range(1, 9)))
    assert (file[Reg.WORD], file[Reg.BYTE]) == (0x0403, 6)
    assert file.read(0x24, 8) == b"\0\0\3\4\0\6\0\0", "0 between registers"
    file[Reg.BYTE] = 0x1FF
    assert file[Reg.BYTE] == 0xFF, "as many bits as it has"


def test_write_1_to_set(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.MASK_SET, b"\1\0\1\0")
    file.write(Reg.MASK_SET + 1, b"\x80")
    assert file[Reg.MASK_SET] == 0x8001, "the mask leaves the third byte out"
    assert owner.calls == [("mask_set", 1), ("mask_set", 0x8000)]


def test_read_to_clear(file: RegisterFile) -> None:
    file[Reg.EVENTS] = 0x0102_0304
    assert file.peek(Reg.EVENTS, 4) == b"\4\3\2\1"
    file.write(Reg.EVENTS, b"\xff\xff\xff\xff")
    assert file.read(Reg.EVENTS + 1, 2) == b"\3\2"
    assert file[Reg.EVENTS] == 0x0100_0004, "the bytes that nobody read are kept"
    assert file.read(Reg.EVENTS, 4) == b"\4\0\0\1"
    assert file[Reg.EVENTS] == 0


def test_read_to_clear_keeps_what_its_read_did_not_show() -> None:
    file = RegisterFile()

    def read() -> int:
        file[Reg.EVENTS] = 0xFF  # more events come during the read
        return 0x0F

    file.add((Register(Reg.EVENTS, Access.RC, read=read),), None)
    assert file.read(Reg.EVENTS, 4) == b"\x0f\0\0\0"
    assert file[Reg.EVENTS] == 0xF0


def test_interleaved_arrays(file: RegisterFile, owner: Owner) -> None:
    file.write(Reg.TAIL + 3 * 8, b"\5\0\0\0")
    assert owner.calls == [("tail", 3, 5)]
    assert file.read(Reg.HEAD + 2 * 8, 4) == b"\2\x10\0\0"
    assert owner.calls[1:] == [("head", 2)]
    file[Reg.TAIL, 1] = 9
    assert (file[Reg.TAIL, 1], file[Reg.TAIL, 3], file[Reg.TAIL + 8]) == (9, 5, 9)
    assert [file.name(at) for at in (0x100, 0x104, 0x11B, 0x11C, 0x120)] == [
        *("TAIL[0]", "HEAD[0]", "TAIL[3]", "HEAD[3]", "")
    ]
    file.write(Reg.TAIL + 8, b"\1\0\0\0\2\0\0\0\3\0\0\0")
    assert owner.calls[2:] == [("tail", 1, 1), ("tail", 2, 3)], "a wide write, in order"


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_that_the_array_does_not_have(file: RegisterFile, index: int) -> None:
    with pytest.raises(IndexError, match=r"TAIL\[-?\d\]: the array has 4 registers"):
        file[Reg.TAIL, index]
    with pytest.raises(IndexError, match=r"TAIL\[-?\d\]: the array has 4 registers"):
        file[Reg.TAIL, index] = 1


def test_a_place_without_a_register(file: RegisterFile) -> None:
    for place in (0x3C, 0x101, Reg.BASE + 4):
        with pytest.raises(LookupError, match=f"no register at {place:#x}"):
            file[place]
        with pytest.raises(LookupError, match=f"no register at {place:#x}"):
            file[place] = 1
    with pytest.raises(LookupError, match="no array of registers begins at 0x0"):
        file[Reg.BASE, 0]


def test_a_state_has_whole_registers_and_what_is_between(file: RegisterFile) -> None:
    assert file.has(Reg.BASE, 0x118 + 4 + 4)
    assert file.has(Reg.WORD, 4), "WORD, a byte that is no register, BYTE"
    for offset, length in ((Reg.BASE, 4), (4, 4), (Reg.WORD, 5), (0x25, 3), (0x60, 4)):
        assert not file.has(offset, length)


class Same(IntEnum):
    CONTROL = 0


def test_a_prefix_names_the_side_effects() -> None:
    calls: list[tuple[str, int]] = []

    class Two:
        def write_dma_control(self, value: int) -> None:
            calls.append(("dma", value))

        def write_control(self, value: int) -> None:
            calls.append(("plain", value))

    owner = Two()
    plain = RegisterFile((Register(Same.CONTROL, Access.RW),), owner)
    dma = RegisterFile((Register(Same.CONTROL, Access.RW),), owner, prefix="dma")
    plain.write(0, b"\1\0\0\0")
    dma.write(0, b"\2\0\0\0")
    assert calls == [("plain", 1), ("dma", 2)]
    assert dma.owned_by("dma_control", owner)
    assert not dma.owned_by("control", owner)
    assert dma.name(0) == "CONTROL"
