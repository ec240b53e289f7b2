# SPDX-License-Identifier: Apache-2.0
"""The processor's memory types, read through msr(4): IA32_PAT and the MTRRs.

They are inputs to the platform's witness. The host compares them with what QEMU saves.
Registers: Intel SDM vol. 3A, 12.11 (MTRRs) and 12.12 (PAT).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout import MTRR_FIXED_NAMES, MTRR_MAX, MemoryType

IA32_MTRRCAP: Final = 0xFE
IA32_MTRR_PHYSBASE0: Final = 0x200  # and PHYSMASK0 behind it, then the next pair
IA32_PAT: Final = 0x277
IA32_MTRR_DEF_TYPE: Final = 0x2FF
# In the order of MTRR_FIXED_NAMES.
IA32_MTRR_FIX: Final = (0x250, 0x258, 0x259, *range(0x268, 0x270))

_MTRRCAP_COUNT: Final = 0xFF
_MTRRCAP_FIX: Final = 1 << 8

# Bits of a page-table entry; the PAT bit is elsewhere in an entry for a large page.
_PWT: Final = 1 << 3
_PCD: Final = 1 << 4
_PAT_4K: Final = 1 << 7
_PAT_LARGE: Final = 1 << 12


class MemoryTypesError(Exception):
    """The registers cannot be read; the message says what to load."""


@dataclass(frozen=True, slots=True)
class Mtrrs:
    """The MTRRs: register values, not decoded.

    ``ranges`` are (PHYSBASE, PHYSMASK); ``fixed`` the 11 fixed-range registers in the order of
    MTRR_FIXED_NAMES, zeros when the processor has none; ``physical_bits`` the address width.
    """

    def_type: int
    ranges: tuple[tuple[int, int], ...]
    fixed: tuple[int, ...]
    physical_bits: int


def read_pat(cpu: int = 0) -> int:
    """Return IA32_PAT of one processor, 64 bits."""
    with _open(cpu) as msr:
        return msr.read(IA32_PAT)


def read_mtrrs(cpu: int = 0) -> Mtrrs:
    """Return the MTRRs of one processor.

    Raises `MemoryTypesError` when they cannot be read, or there are more than the witness takes.
    """
    with _open(cpu) as msr:
        capabilities = msr.read(IA32_MTRRCAP)
        count = capabilities & _MTRRCAP_COUNT
        if count > MTRR_MAX:
            raise MemoryTypesError(f"{count} variable MTRRs; the witness takes {MTRR_MAX}")
        pairs = range(IA32_MTRR_PHYSBASE0, IA32_MTRR_PHYSBASE0 + 2 * count, 2)
        if capabilities & _MTRRCAP_FIX:
            fixed = tuple(msr.read(number) for number in IA32_MTRR_FIX)
        else:
            fixed = (0,) * len(MTRR_FIXED_NAMES)
        return Mtrrs(
            msr.read(IA32_MTRR_DEF_TYPE),
            tuple((msr.read(base), msr.read(base + 1)) for base in pairs),
            fixed,
            read_physical_bits(),
        )


def read_physical_bits(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Return the width of a physical address in bits, as /proc/cpuinfo says it."""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "address sizes":
            return int(value.split()[0])
    raise MemoryTypesError(f"{cpuinfo} does not state the address sizes")


def entry_type(entry: int, pat: int, level: int = 1) -> MemoryType:
    """Return the type that a leaf entry (of level 1, 2 or 3) selects from a PAT value."""
    pat_bit = _PAT_4K if level == 1 else _PAT_LARGE
    index = bool(entry & _PWT) | bool(entry & _PCD) << 1 | bool(entry & pat_bit) << 2
    return MemoryType(pat >> 8 * index & 0x7)


class _Msr:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MemoryTypesError(
                f"{path}: {error.strerror}; is the module msr loaded?"
            ) from error

    def read(self, number: int) -> int:
        try:
            return int.from_bytes(os.pread(self._fd, 8, number), "little")
        except OSError as error:
            raise MemoryTypesError(f"{self._path}: MSR {number:#x}: {error.strerror}") from error

    def __enter__(self) -> _Msr:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _open(cpu: int) -> _Msr:
    return _Msr(Path(f"/dev/cpu/{cpu}/msr"))
