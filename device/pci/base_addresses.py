# SPDX-License-Identifier: Apache-2.0
"""Base address registers: their sizes and kinds, and where software put them.

PCI Local Bus 3.0, section 6.2.5.1; PCI Express Base 5.0, 7.5.1.2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BARS = 6
_FIRST = 0x10  # of their registers in the header
_BEYOND_32_BITS = 1 << 32
# The address space of this process has to hold the memory of one.
_BEYOND_64_BITS = 1 << 47
_LEAST_MEMORY = 16
_64_BIT, _PREFETCHABLE = 1 << 2, 1 << 3
_MEMORY_ENABLED = 1 << 1  # of the command register
_WORD = struct.Struct("<I")
_PAIR = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class BaseAddress:
    """One base address register. Size in bytes; with ``bits=64`` it takes two registers."""

    size: int
    bits: int = 32
    prefetchable: bool = False

    @property
    def flags(self) -> int:
        """Return the bits below the address, by which software knows the kind."""
        return (_64_BIT if self.bits == 64 else 0) | (_PREFETCHABLE if self.prefetchable else 0)

    @property
    def layout(self) -> struct.Struct:
        """Return the layout of its register, or of its two."""
        return _PAIR if self.bits == 64 else _WORD

    @property
    def mask(self) -> int:
        """Return the bits that software may write; it learns the size from the others."""
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
        beyond = _BEYOND_64_BITS if self.bits == 64 else _BEYOND_32_BITS
        if not _LEAST_MEMORY <= self.size < beyond or self.size & (self.size - 1):
            most = "64 TiB" if self.bits == 64 else "2 GiB, or give it bits=64"
            raise ValueError(
                f"{name} of {self.size:#x} bytes; make it a power of two from {_LEAST_MEMORY} to "
                f"{most}"
            )


def check(registers: Mapping[int, BaseAddress]) -> None:
    """Raise ValueError for base address registers that no function can have."""
    for index, register in registers.items():
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

    ``check`` says which there can be.
    """

    def __init__(self, registers: Mapping[int, BaseAddress]) -> None:
        """Raise ValueError for registers that no function can have."""
        check(registers)
        self._registers = dict(registers)
        # Those that answer: first, end, index. Every DMA asks.
        self._placed: tuple[tuple[int, int, int], ...] = ()

    def fields(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield each register's offset in the header, its value at reset and its write mask."""
        for index, register in self._registers.items():
            layout = register.layout
            offset = _FIRST + 4 * index
            yield offset, layout.pack(register.flags), layout.pack(register.mask)

    def place(self, header: bytearray, command: int) -> None:
        """Take note of what software wrote. ``command``: the bits in force, 0 in D3hot."""
        self._placed = ()
        if command & _MEMORY_ENABLED:
            self._placed = tuple(self._places(header))

    def _places(self, header: bytearray) -> Iterator[tuple[int, int, int]]:
        for index, register in self._registers.items():
            (value,) = register.layout.unpack_from(header, _FIRST + 4 * index)
            base = value & register.mask
            if base:
                yield base, base + register.size, index

    def address(self, index: int) -> int | None:
        """Return where one lies; None while it is not placed, or does not answer."""
        return next((base for base, _end, each in self._placed if each == index), None)

    def at(self, address: int, length: int) -> tuple[int, int] | None:
        """Return the index of one whose range has a byte of this one, and the offset in it."""
        if not length:
            return None
        for base, end, index in self._placed:
            if base < address + length and address < end:
                return index, address - base
        return None
