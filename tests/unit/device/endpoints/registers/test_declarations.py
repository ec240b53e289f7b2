# SPDX-License-Identifier: Apache-2.0
"""Declarations that no register can have: each is an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.registers import (
    Access,
    Declared,
    Field,
    Fields,
    Flag,
    Register,
    RegisterArray,
    RegisterFile,
    Trigger,
)


class Reg(IntEnum):
    FIRST = 0x00
    HALF = 0x04
    ODD = 0x01
    SHORT = 0x02
    TAIL = 0x40
    WITHIN = 0x48
    LAST = 0xFC


class Wide(Fields):
    """A field beyond 32 bits."""

    low = Flag(1)
    high = Field(0xFF << 32)


class Empty(Fields):
    """A class without fields."""


class Clears(Fields):
    """A field on which a 1 acts."""

    value = Field(0xFF)
    error = Flag(1 << 8, Access.W1C)


RIGHT: dict[str, tuple[Declared, ...]] = {
    "64 bits at a multiple of 4": (Register(Reg.HALF, bits=64),),
    "16 bits at a multiple of 2": (Register(Reg.SHORT, bits=16),),
    "8 bits anywhere": (Register(Reg.ODD, bits=8),),
    "a field in the upper half": (Register(Reg.FIRST, Wide, bits=64),),
    "an array in the gaps of another": (
        RegisterArray(Reg.FIRST, 8, 8),
        RegisterArray(Reg.HALF, 8, 8),
    ),
    "an array to the end": (RegisterArray(Reg.TAIL, 48, 4),),
    "a trigger of what is stored": (Register(Reg.FIRST, Access.RW, bits=64, trigger=Trigger.LAST),),
    "each part of a command acts": (Register(Reg.FIRST, Access.WO, bits=64),),
}

WRONG: dict[str, tuple[tuple[Declared, ...], str]] = {
    "24 bits": (
        (Register(Reg.FIRST, bits=24),),
        r"Mine: FIRST: 24 bits; make it 8, 16, 32 or 64",
    ),
    "64 bits off their 4 bytes": (
        (Register(Reg.SHORT, bits=64),),
        r"SHORT at 0x2: make the offset a multiple of 4",
    ),
    "16 bits off their 2 bytes": (
        (Register(Reg.ODD, bits=16),),
        r"ODD at 0x1: make the offset a multiple of 2",
    ),
    "a reset value beyond 8 bits": (
        (Register(Reg.FIRST, reset=256, bits=8),),
        r"FIRST: reset value 0x100; a register has 8 bits",
    ),
    "a field beyond 32 bits": (
        (Register(Reg.FIRST, Wide),),
        r"FIRST: field high of mask 0xff00000000; a register has 32 bits; declare more bits",
    ),
    "an object of fields": (
        (Register(Reg.FIRST, Clears(0)),),  # type: ignore[arg-type]
        r"Mine: FIRST: access <.*Clears object.*>; give it an Access, or a class of fields",
    ),
    "no fields": (
        (Register(Reg.FIRST, Empty),),
        r"Mine: FIRST: Empty has no fields; declare a Field or a Flag",
    ),
    "a mask beside fields": (
        (Register(Reg.FIRST, Clears, mask=1),),
        r"Mine: FIRST: mask 0x1 beside Clears, whose fields have masks; leave mask out",
    ),
    "no comma": (
        Register(Reg.FIRST),  # type: ignore[dict-item]
        r"Mine: registers: one register where a list is needed; write a comma behind it",
    ),
    "a number in place of a register": (
        (Reg.FIRST,),  # type: ignore[dict-item]
        r"Mine: registers: <Reg.FIRST: 0>; declare a Register or a RegisterArray",
    ),
    "an offset without a name": (
        (Register(0x10),),  # type: ignore[arg-type]
        r"Mine: registers: one at 16; declare the offsets in an IntEnum, whose members name",
    ),
    "a register in the upper half of another": (
        (Register(Reg.FIRST, bits=64), Register(Reg.HALF)),
        r"Mine: HALF at 0x4: FIRST is there; give it another offset",
    ),
    "a wide register over the next": (
        (Register(Reg.HALF), Register(Reg.FIRST, bits=64)),
        r"Mine: FIRST at 0x0: HALF is there",
    ),
    "a register within an array": (
        (RegisterArray(Reg.TAIL, 4, 8), Register(Reg.WITHIN)),
        r"Mine: WITHIN at 0x48: TAIL\[1\] is there",
    ),
    "an array over a register": (
        (Register(Reg.WITHIN), RegisterArray(Reg.TAIL, 4, 8)),
        r"Mine: TAIL\[1\] at 0x48: WITHIN is there",
    ),
    "an array past the end": (
        (RegisterArray(Reg.TAIL, 49, 4),),
        r"Mine: TAIL\[48\] at 0x100: the BAR has 0x100 bytes; make it larger",
    ),
    "a wide register past the end": (
        (Register(Reg.LAST, bits=64),),
        r"Mine: LAST at 0xfc: the BAR has 0x100 bytes",
    ),
    "elements that overlap": (
        (RegisterArray(Reg.TAIL, 2, 4, bits=64),),
        r"TAIL: a stride of 4 bytes for registers of 8; make it at least 8, and a multiple of 4",
    ),
    "a stride off its 4 bytes": ((RegisterArray(Reg.TAIL, 2, 6),), r"TAIL: a stride of 6 bytes"),
    "an empty array": (
        (RegisterArray(Reg.TAIL, 0, 4),),
        r"TAIL: an array of 0 registers; declare at least one",
    ),
    "a trigger of commands": (
        (Register(Reg.FIRST, Access.WO, bits=64, trigger=Trigger.LAST),),
        r"FIRST: trigger LAST would lose the bits of a part that is not stored; make them",
    ),
    "a trigger of a field that clears": (
        (Register(Reg.FIRST, Clears, trigger=Trigger.FIRST),),
        r"FIRST: trigger FIRST would lose",
    ),
    "the name of a register for an array": (
        (Register(Reg.TAIL), RegisterArray(Reg.TAIL, 2, 4)),
        r"Mine: TAIL at 0x40: the name is taken",
    ),
}


class Mine:
    """The owner."""


@pytest.mark.parametrize("registers", RIGHT.values(), ids=RIGHT)
def test_right_declaration(registers: tuple[Declared, ...]) -> None:
    RegisterFile(registers, Mine(), 0x100)


@pytest.mark.parametrize(("registers", "said"), WRONG.values(), ids=WRONG)
def test_wrong_declaration(registers: tuple[Declared, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RegisterFile(registers, Mine(), 0x100)


_STORE: list[int] = []


def _none() -> None: ...
def _one(value: int) -> int:
    return value


def _two(index: int, value: int) -> None: ...
def _more(index: int, value: int = 0, *, note: str = "") -> None: ...
def _any(*values: int) -> None: ...


PLAIN, ARRAY = Register(Reg.FIRST, Access.RW), RegisterArray(Reg.TAIL, 2, 4, Access.RW)
FITS = [
    *((PLAIN, "write_first", each) for each in (_one, _more, _any, _STORE.append)),
    *((PLAIN, "read_first", each) for each in (_none, _any)),
    *((ARRAY, "write_tail", each) for each in (_two, _more, _any)),
    *((ARRAY, "read_tail", each) for each in (_one, _more)),
]
MISFITS = [
    *((PLAIN, "write_first", each, r"\(value\)") for each in (_none, _two)),
    (PLAIN, "read_first", _one, r"\(\)"),
    *((ARRAY, "write_tail", each, r"\(index, value\)") for each in (_none, _one)),
    *((ARRAY, "read_tail", each, r"\(index\)") for each in (_none, _two)),
]


def _owner(method: str, function: Callable[..., Any]) -> object:
    owner = Mine()
    setattr(owner, method, function)
    return owner


@pytest.mark.parametrize(("declared", "method", "function"), FITS)
def test_parameters_that_an_access_gives(
    declared: Declared, method: str, function: Callable[..., Any]
) -> None:
    RegisterFile((declared,), _owner(method, function))


@pytest.mark.parametrize(("declared", "method", "function", "given"), MISFITS)
def test_parameters_that_no_access_gives(
    declared: Declared, method: str, function: Callable[..., Any], given: str
) -> None:
    said = rf"Mine: \w+: {method} has the parameters .*, and an access calls {method}{given}"
    with pytest.raises(ValueError, match=said):
        RegisterFile((declared,), _owner(method, function))
