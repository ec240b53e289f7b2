# SPDX-License-Identifier: Apache-2.0
"""The harness's own walk of the guest's page tables, to check the platform's witness.

It shares no code with the witness, the guest's driver or the guest's library, so that one mistake
is not made twice: it resolves each 4 KiB of a range separately, entry by entry, and joins the
results afterwards. Intel SDM vol. 3A: 4.5 (4-level and 5-level paging), 12.11 (MTRRs), 12.12 (PAT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

STEP = 4096
# The low 12 bits of CR3 (a PCID, or PWT and PCD) and bit 63 are not part of the address. Bit 12 is:
# with page-table isolation it distinguishes the user's half from the kernel's.
ROOT = 0x000F_FFFF_FFFF_F000

_TYPES = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC_MINUS"}
# Table 12-7, one line for each type by PAT: the effective types where the MTRR says these.
_MTRR_TYPES = ("UC", "WC", "WT", "WB", "WP")
_EFFECTIVE = {
    "UC": ("UC", "UC", "UC", "UC", "UC"),
    "UC_MINUS": ("UC", "WC", "UC", "UC", "WC"),
    "WC": ("WC", "WC", "WC", "WC", "WC"),
    "WT": ("UC", "UC", "WT", "WT", "WT"),
    "WB": ("UC", "WC", "WT", "WB", "WP"),
    "WP": ("UC", "UC", "WP", "WP", "WP"),
}

ReadMemory = Callable[[int, int], bytes]


class WalkFailed(Exception):
    """An address has no mapping, or one that the architecture does not allow."""


@dataclass(frozen=True, slots=True)
class TypeRegisters:
    """IA32_PAT and the MTRRs of a CPU, and the width of its physical addresses in bits.

    ``ranges`` are (PHYSBASE, PHYSMASK), ``fixed`` the eleven fixed-range registers by address.
    """

    pat: int
    def_type: int
    physical_bits: int
    ranges: tuple[tuple[int, int], ...]
    fixed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PageRange:
    """Consecutive pages with the same attributes: sizes in bytes, types by name."""

    va: int
    physical: int
    length: int
    page_size: int
    pat_index: int
    pat: str
    mtrr: str
    effective: str
    writable: bool
    user: bool
    no_execute: bool

    def goes_on(self, other: PageRange) -> bool:
        """Whether ``other`` follows this run directly and has the same attributes."""
        moved = replace(
            self, va=self.va + self.length, physical=self.physical + self.length, length=STEP
        )
        return other == moved


def walk(
    read: ReadMemory, root: int, levels: int, address: int, length: int, registers: TypeRegisters
) -> list[PageRange]:
    """Return what maps the pages of [address, address + length), in order.

    ``root`` is a value of CR3, ``levels`` 4 or 5. WalkFailed names the page that it ended at; what
    ``read`` raises for memory that is not there goes through.
    """
    first, end = address // STEP * STEP, address + length
    pages = (_page(read, root & ROOT, levels, va, registers) for va in range(first, end, STEP))
    return list(_joined(pages))


def _joined(pages: Iterable[PageRange]) -> Iterator[PageRange]:
    whole: PageRange | None = None
    for page in pages:
        if whole is not None and whole.goes_on(page):
            whole = replace(whole, length=whole.length + STEP)
            continue
        if whole is not None:
            yield whole
        whole = page
    if whole is not None:
        yield whole


def _page(read: ReadMemory, root: int, levels: int, va: int, registers: TypeRegisters) -> PageRange:
    table, size = root, 1 << (12 + 9 * levels)
    writable, user, no_execute = True, True, False
    while size > STEP:
        size >>= 9
        entry = int.from_bytes(read(table + va // size % 512 * 8, 8), "little")
        bit = [bool(entry >> number & 1) for number in range(64)]
        if not bit[0]:
            raise WalkFailed(f"{va:#x}: entry {entry:#x} for {size} bytes is not present")
        writable, user, no_execute = writable and bit[1], user and bit[2], no_execute or bit[63]
        if size == STEP or bit[7]:
            break
        table = entry & ROOT
    if size > 1 << 30:
        raise WalkFailed(f"{va:#x}: entry {entry:#x} is for a page of {size} bytes")
    frame = entry & ROOT
    if size > STEP:
        frame &= ~STEP  # bit 12 of a large page's entry is its PAT bit
        if frame % size:
            raise WalkFailed(f"{va:#x}: entry {entry:#x} sets bits below its page of {size} bytes")
    index = 4 * bit[7 if size == STEP else 12] + 2 * bit[4] + bit[3]
    physical = frame + va % size
    pat = _type(registers.pat >> 8 * index & 0xFF, f"entry {index} of IA32_PAT")
    mtrr = mtrr_type(registers, physical)
    return PageRange(
        *(va, physical, STEP, size),
        *(index, pat, mtrr, combined(pat, mtrr)),
        *(writable, user, no_execute),
    )


def types_of(
    registers: TypeRegisters, pat_index: int, physical: int, length: int
) -> list[tuple[int, str]]:
    """Return the effective types of [physical, physical + length), in order, with their bytes.

    ``pat_index`` is the entry of IA32_PAT that the pages select. WalkFailed for a reserved type.
    """
    pat = _type(registers.pat >> 8 * pat_index & 0xFF, f"entry {pat_index} of IA32_PAT")
    bits = (1 << registers.physical_bits) - STEP
    masks = [mask & bits for _, mask in registers.ranges if mask >> 11 & 1 and mask & bits]
    grain = min((mask & -mask for mask in masks), default=1 << 20)
    found: list[tuple[int, str]] = []
    while length > 0:
        step = STEP if physical < 1 << 20 else grain
        part = min(step - physical % step, length)
        kind = combined(pat, mtrr_type(registers, physical))
        if found and found[-1][1] == kind:
            found[-1] = found[-1][0] + part, kind
        else:
            found.append((part, kind))
        physical, length = physical + part, length - part
    return found


def combined(pat: str, mtrr: str) -> str:
    """Return the effective type of a page by both."""
    return _EFFECTIVE[pat][_MTRR_TYPES.index(mtrr)]


def mtrr_type(registers: TypeRegisters, address: int) -> str:
    """Return the MTRRs' type of the 4 KiB at a physical address. WalkFailed for one reserved."""
    if not registers.def_type >> 11 & 1:
        return "UC"
    if registers.def_type >> 10 & 1 and address < 1 << 20:
        return _mtrr(_fixed(registers.fixed, address), address)
    bits = (1 << registers.physical_bits) - STEP
    said = {
        _mtrr(base & 0xFF, address)
        for base, mask in registers.ranges
        if mask >> 11 & 1 and (address ^ base) & mask & bits == 0
    }
    if not said:
        return _mtrr(registers.def_type & 0xFF, address)
    # 12.11.4.1: the only overlaps that are defined
    if "UC" in said:
        return "UC"
    if said == {"WT", "WB"}:
        return "WT"
    if len(said) > 1:
        raise WalkFailed(f"the MTRRs give {address:#x} several types: {', '.join(sorted(said))}")
    return said.pop()


def _fixed(registers: tuple[int, ...], address: int) -> int:
    """Return the byte of the fixed-range registers for an address below 1 MiB (table 12-9)."""
    if address < 0x8_0000:
        number = address >> 16
    elif address < 0xC_0000:
        number = 8 + (address - 0x8_0000 >> 14)
    else:
        number = 24 + (address - 0xC_0000 >> 12)
    return registers[number // 8] >> 8 * (number % 8) & 0xFF


def _mtrr(value: int, address: int) -> str:
    name = _type(value, f"the MTRR of {address:#x}")
    if name not in _MTRR_TYPES:
        raise WalkFailed(f"the MTRR of {address:#x} says {name}, which no MTRR can")
    return name


def _type(value: int, where: str) -> str:
    if value not in _TYPES:
        raise WalkFailed(f"{where} is {value}, which is reserved")
    return _TYPES[value]
