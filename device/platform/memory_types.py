# SPDX-License-Identifier: Apache-2.0
"""Memory types as the processor combines them: IA32_PAT, the MTRRs, and both together.

Intel SDM vol. 3A: 12.11 (MTRRs), 12.12 (PAT), table 12-7 (effective types).
"""

from __future__ import annotations

from dataclasses import dataclass

from dma_rehearsal.device.layout import MemoryType

_UC, _WC, _WT = MemoryType.UC, MemoryType.WC, MemoryType.WT
_WP, _WB, _UC_MINUS = MemoryType.WP, MemoryType.WB, MemoryType.UC_MINUS

_MTRR_ENABLE = 1 << 11
_FIXED_ENABLE = 1 << 10
_RANGE_VALID = 1 << 11
# IA32_MTRR_DEF_TYPE of a processor whose MTRRs say write-back everywhere
ALL_WRITE_BACK = _MTRR_ENABLE | _WB
_PAGE_SHIFT = 12
_FIXED_END = 0x10_0000
# First address and bytes of each of the eight ranges of a fixed-range register, in order.
_FIXED = (
    (0x00000, 0x10000),
    *((0x80000 + i * 0x20000, 0x4000) for i in range(2)),
    *((0xC0000 + i * 0x8000, 0x1000) for i in range(8)),
)


class BadMemoryType(Exception):
    """A register or a combination that the architecture reserves."""


def pat_types(pat: int) -> tuple[MemoryType, ...]:
    """Return the types of IA32_PAT's eight entries. BadMemoryType for a reserved encoding."""
    try:
        return tuple(MemoryType(pat >> 8 * index & 0xFF) for index in range(8))
    except ValueError as error:
        raise BadMemoryType(f"IA32_PAT {pat:#018x} has a reserved encoding") from error


@dataclass(frozen=True, slots=True)
class Mtrrs:
    """The MTRRs' values. ``ranges`` are (PHYSBASE, PHYSMASK) pairs, ``fixed`` eleven registers."""

    def_type: int
    physical_bits: int
    ranges: tuple[tuple[int, int], ...] = ()
    fixed: tuple[int, ...] = (0,) * 11

    def type_of(self, address: int) -> MemoryType:
        """Return the type of a physical address. BadMemoryType for a reserved one.

        Overlaps: UC wins, WT wins over WB, anything else is undefined (12.11.4.1).
        """
        if not self.def_type & _MTRR_ENABLE:
            return _UC
        if self.def_type & _FIXED_ENABLE and address < _FIXED_END:
            return self._fixed_type(address)
        found = set()
        limit = (1 << self.physical_bits) - 1
        for base, mask in self.ranges:
            if mask & _RANGE_VALID:
                compared = mask & limit >> _PAGE_SHIFT << _PAGE_SHIFT
                if address & compared == base & compared:
                    found.add(_mtrr_type(base & 0xFF))
        if not found:
            return _mtrr_type(self.def_type & 0xFF)
        if _UC in found:
            return _UC
        if found == {_WT, _WB}:
            return _WT
        if len(found) > 1:
            names = sorted(each.name for each in found)
            raise BadMemoryType(f"the MTRRs give {address:#x} the types {names}")
        return found.pop()

    def _fixed_type(self, address: int) -> MemoryType:
        for (start, size), register in zip(_FIXED, self.fixed, strict=True):
            if start <= address < start + 8 * size:
                return _mtrr_type(register >> 8 * ((address - start) // size) & 0xFF)
        raise BadMemoryType(f"no fixed-range MTRR covers {address:#x}")

    def uniform_limit(self, address: int) -> int:
        """Return an address above ``address`` up to which the type cannot change, page-aligned."""
        edges = {1 << self.physical_bits}
        if address < _FIXED_END:
            return (address | 0xFFF) + 1
        limit = (1 << self.physical_bits) - 1
        for base, mask in self.ranges:
            if mask & _RANGE_VALID:
                start = base & limit & ~0xFFF
                size = (~mask & limit | 0xFFF) + 1
                edges |= {start, start + size}
        return min((edge for edge in edges if edge > address), default=1 << 64)


def _mtrr_type(value: int) -> MemoryType:
    try:
        found = MemoryType(value)
    except ValueError as error:
        raise BadMemoryType(f"memory type {value} is reserved") from error
    if found is _UC_MINUS:
        raise BadMemoryType("an MTRR cannot have the type UC-")
    return found


_EFFECTIVE: dict[tuple[MemoryType, MemoryType], MemoryType] = {
    # (MTRR, PAT): effective
    (_UC, _UC): _UC, (_UC, _UC_MINUS): _UC, (_UC, _WC): _WC,
    (_UC, _WT): _UC, (_UC, _WB): _UC, (_UC, _WP): _UC,
    (_WC, _UC): _UC, (_WC, _UC_MINUS): _WC, (_WC, _WC): _WC,
    (_WC, _WT): _UC, (_WC, _WB): _WC, (_WC, _WP): _UC,
    (_WT, _UC): _UC, (_WT, _UC_MINUS): _UC, (_WT, _WC): _WC,
    (_WT, _WT): _WT, (_WT, _WB): _WT, (_WT, _WP): _WP,
    (_WB, _UC): _UC, (_WB, _UC_MINUS): _UC, (_WB, _WC): _WC,
    (_WB, _WT): _WT, (_WB, _WB): _WB, (_WB, _WP): _WP,
    (_WP, _UC): _UC, (_WP, _UC_MINUS): _WC, (_WP, _WC): _WC,
    (_WP, _WT): _WT, (_WP, _WB): _WP, (_WP, _WP): _WP,
}  # fmt: skip


def effective_type(mtrr: MemoryType, pat: MemoryType) -> MemoryType:
    """Return the effective type of a page (table 12-7)."""
    return _EFFECTIVE[mtrr, pat]
