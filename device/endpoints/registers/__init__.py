# SPDX-License-Identifier: Apache-2.0
"""Declared registers of 8 to 64 bits, their fields, and the dispatch of accesses of any width.

An author lists registers as a specification's table does, and their fields as its figures do:

    class Control(Fields):
        start = Flag(1 << 0, Access.SELF_CLEARING)
        mode = Field(0x30, type=Mode)

    Register(Reg.CONTROL, Control)
    Register(Reg.BASE, Access.RW, bits=64)
    RegisterArray(Reg.TAIL, 128, 8, Access.WO)

A side effect is a method of the owner, named after the register: ``write_control(value)`` after a
write, ``read_status() -> int`` in place of the stored value; for an array ``write_tail(index,
value)`` and ``read_tail(index)``. Addresses without a register read 0 and ignore writes.
"""

from dma_rehearsal.device.endpoints.registers.declarations import (
    Declared,
    Register,
    RegisterArray,
    Trigger,
)
from dma_rehearsal.device.endpoints.registers.dispatch import RegisterFile
from dma_rehearsal.device.endpoints.registers.fields import Access, Field, Fields, Flag

__all__ = [
    "Access",
    "Declared",
    "Field",
    "Fields",
    "Flag",
    "Register",
    "RegisterArray",
    "RegisterFile",
    "Trigger",
]
