# SPDX-License-Identifier: Apache-2.0
"""Base address registers: their sizes and kinds, and where software put them.

PCI Local Bus 3.0, sections 6.2.5.1 and 6.2.5.2; PCI Express Base 5.0, 7.5.1.2.1. The register of
the expansion ROM is the one with the number `ROM`, as VFIO numbers its region.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

BARS = 6
ROM = 6
_FIRST, _ROM_OFFSET = 0x10, 0x30  # of their registers in the header
_64_BIT, _PREFETCHABLE = 1 << 2, 1 << 3
_ROM_ENABLED = 1
_WORD = struct.Struct("<I")
_PAIR = struct.Struct("<Q")


class Space(Enum):
    """The spaces in which a range can lie, with the bit of the command register that enables it."""

    IO = 1 << 0
    MEMORY = 1 << 1


@dataclass(frozen=True, slots=True)
class BaseAddress:
    """One base address register. Size in bytes; with ``bits=64`` it takes two registers."""

    size: int
    bits: int = 32
    prefetchable: bool = False
    space: Space = Space.MEMORY

    @property
    def flags(self) -> int:
        """Return the bits below the address, by which software knows the kind."""
        if self.space is Space.IO:
            return 1
        return (_64_BIT if self.bits == 64 else 0) | (_PREFETCHABLE if self.prefetchable else 0)

    @property
    def layout(self) -> struct.Struct:
        """Return the layout of its register, or of its two."""
        return _PAIR if self.bits == 64 else _WORD

    @property
    def mask(self) -> int:
        """Return the bits of the address; software learns the size from the others."""
        return -self.size & (1 << self.bits) - 1

    def check(self, index: int) -> None:
        """Raise ValueError for a register that no function can have."""
        name = f"BAR{index}"
        if index not in range(BARS):
            raise ValueError(f"{name}; a function has BARs 0 to {BARS - 1}")
        if self.bits not in (32, 64):
            raise ValueError(f"{name} of {self.bits} bits; give it bits=32 or bits=64")
        if self.bits == 64 and index == BARS - 1:
            raise ValueError(f"{name} of 64 bits needs BAR{BARS} as well; give it a lower number")
        if self.prefetchable and self.bits != 64:
            raise ValueError(
                f"{name} is prefetchable, and a PCI Express function needs 64 bits for that; give "
                "it bits=64, or leave prefetchable out"
            )
        least, most, advice = self._sizes()
        if not least <= self.size <= most or self.size & (self.size - 1):
            raise ValueError(
                f"{name} of {self.size:#x} bytes; make it a power of two from {least} to {advice}"
            )

    def _sizes(self) -> tuple[int, int, str]:
        """Return the least and the most bytes, and the words for the most."""
        if self.space is Space.IO:
            return 4, 1 << 8, "256, the most that a BAR may have in I/O space"
        if self.bits == 64:
            # The address space of this process has to hold the memory of the BAR.
            return 16, 1 << 46, "64 TiB"
        return 16, 1 << 31, "2 GiB, or give it bits=64"


def check(registers: Mapping[int, BaseAddress]) -> None:
    """Raise ValueError for base address registers that no function can have."""
    for index, register in registers.items():
        if index != ROM:
            register.check(index)
    for index, register in registers.items():
        if register.bits == 64 and index + 1 in registers:
            raise ValueError(
                f"BAR{index + 1} is the upper half of BAR{index}, which has 64 bits; give it "
                "another number"
            )


def taken(registers: Mapping[int, BaseAddress]) -> set[int]:
    """Return the numbers that are not free: of 64-bit ones, both."""
    upper = {index + 1 for index, register in registers.items() if register.bits == 64}
    return {*registers} | upper


class BaseAddresses:
    """The base address registers of one function, at their places in its header.

    ``check`` says which there can be. ``answering``: the numbers of those that answer accesses.
    """

    def __init__(self, registers: Mapping[int, BaseAddress]) -> None:
        """Raise ValueError for registers that no function can have."""
        check(registers)
        self._declared = dict(registers)
        self._registers = dict(registers)
        self.answering: frozenset[int] = frozenset()
        self._bases: dict[int, int] = {}
        # Those in memory space: first, end, index. Every DMA asks.
        self._placed: tuple[tuple[int, int, int], ...] = ()

    @property
    def has_io(self) -> bool:
        """Return whether one of them is in I/O space."""
        return any(register.space is Space.IO for register in self._registers.values())

    def size(self, index: int) -> int:
        """Return the size in force of one, in bytes; 0 where there is none."""
        register = self._registers.get(index)
        return register.size if register is not None else 0

    def resize(self, index: int, size: int) -> None:
        """Give one another size, a power of two; until ``reset``."""
        self._registers[index] = replace(self._registers[index], size=size)

    def reset(self) -> None:
        """Take all sizes back to those that were declared."""
        self._registers = dict(self._declared)

    def fields(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield each register's offset in the header, its value at reset and its write mask."""
        for index, register in self._registers.items():
            layout = register.layout
            mask = register.mask | (_ROM_ENABLED if index == ROM else 0)
            yield _offset(index), layout.pack(register.flags), layout.pack(mask)

    def place(self, header: bytearray, command: int) -> None:
        """Take note of what software wrote. ``command``: the bits in force, 0 in D3hot."""
        answering, bases, placed = set(), {}, []
        for index, register in self._registers.items():
            (value,) = register.layout.unpack_from(header, _offset(index))
            if not command & register.space.value or (index == ROM and not value & _ROM_ENABLED):
                continue
            answering.add(index)
            base = value & register.mask
            if base:
                bases[index] = base
                if register.space is Space.MEMORY:
                    placed.append((base, base + register.size, index))
        self.answering, self._bases, self._placed = frozenset(answering), bases, tuple(placed)

    def address(self, index: int) -> int | None:
        """Return where one lies; None while it is not placed, or does not answer."""
        return self._bases.get(index)

    def at(self, address: int, length: int) -> tuple[int, int] | None:
        """Return the index of one in memory space that has a byte of a range, and the offset."""
        if not length:
            return None
        for base, end, index in self._placed:
            if base < address + length and address < end:
                return index, address - base
        return None


def _offset(index: int) -> int:
    return _ROM_OFFSET if index == ROM else _FIRST + 4 * index
