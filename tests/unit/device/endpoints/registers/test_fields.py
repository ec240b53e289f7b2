# SPDX-License-Identifier: Apache-2.0
"""Fields: their masks, values and types, and those that cannot be."""

from __future__ import annotations

from enum import IntEnum

import pytest

from dma_rehearsal.device.endpoints.registers import (
    Access,
    Field,
    Fields,
    Flag,
    Register,
    RegisterFile,
)


class Reg(IntEnum):
    CONTROL = 0
    RESULT = 4


class Mode(IntEnum):
    SLOW = 0
    FAST = 1


class Wide(Fields):
    """A register of 64 bits."""

    mode = Field(1 << 1, type=Mode, reset=1)
    count = Field(0xFFFF << 40, reset=0x1234)
    error = Flag(1 << 63, Access.W1C, reset=True)


def test_fields_of_64_bits() -> None:
    file = RegisterFile((Register(Reg.CONTROL, Wide, bits=64),))
    value = Wide(file[Reg.CONTROL])
    assert (value.mode, value.count, value.error) == (Mode.FAST, 0x1234, True)
    file.write(Reg.RESULT, b"\0\0\0\x80")
    value = Wide(file[Reg.CONTROL])
    assert (value.mode, value.count, value.error) == (Mode.FAST, 0, False)


@pytest.mark.parametrize("mask", [0, 5, 1 << 64, -1])
def test_mask_that_cannot_be(mask: int) -> None:
    with pytest.raises(ValueError, match="mask"):
        Field(mask)


@pytest.mark.parametrize("mask", [3, 0xFFFF_FFFF_FFFF_FFFF])
def test_type_without_a_member_for_a_guests_value(mask: int) -> None:
    with pytest.raises(ValueError, match="Mode has no member"):
        Field(mask, type=Mode)


def test_reset_value_beyond_the_mask() -> None:
    with pytest.raises(ValueError, match="reset"):
        Field(3, reset=4)


def test_fields_that_overlap() -> None:
    class Overlapping(Fields):
        one = Field(3)
        two = Flag(2)

    with pytest.raises(
        ValueError, match="the fields one and two of Overlapping share the bits 0x2"
    ):
        RegisterFile([Register(Reg.CONTROL, Overlapping)])
