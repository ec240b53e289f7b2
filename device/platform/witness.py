# SPDX-License-Identifier: Apache-2.0
"""The witness: walks a guest's page tables and says what the CPU makes of each page.

No I/O: memory is read through a function that is given. Everything read is the guest's and can
change at any time, so each table is copied once for a walk, and only the copy is used.
Intel SDM vol. 3A, 4.5 (4-level and 5-level paging), 12.12 (PAT).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dma_rehearsal.device.layout import (
    WITNESS_MAX_PAGES,
    WITNESS_RUN_MAX,
    WitnessRun,
    WitnessStatus,
)
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.device.platform.memory_types import (
    BadMemoryType,
    Mtrrs,
    effective_type,
    pat_types,
)

_ENTRY = struct.Struct("<Q")
_ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
_PRESENT, _WRITABLE, _USER = 1 << 0, 1 << 1, 1 << 2
_PWT, _PCD = 1 << 3, 1 << 4
_LARGE = 1 << 7
_PAT_4K, _PAT_LARGE = 1 << 7, 1 << 12
_NO_EXECUTE = 1 << 63

ReadPhysical = Callable[[int, int], bytes]


class TableUnreachable(Exception):
    """A page table lies where the device cannot read."""


@dataclass(slots=True)
class WalkResult:
    """The result of a walk. ``pages`` counts 4 KiB pages looked at."""

    status: WitnessStatus = WitnessStatus.OK
    runs: list[WitnessRun] = field(default_factory=list)
    pages: int = 0
    fault_address: int = 0

    def facts(self) -> list[dict[str, int | str]]:
        """Return the runs as the trace has them: what the host judges them by, too."""
        return [
            {
                "va": run.va,
                "physical": run.physical,
                "length": run.length,
                "page_size": run.page_size,
                "pat_index": run.pat_index,
                "effective": run.effective.name,
            }
            for run in self.runs
        ]


class Rights(NamedTuple):
    """The rights that the entries down to a page leave (Intel SDM vol. 3A, 4.6)."""

    writable: bool = True
    user: bool = True
    no_execute: bool = False


@dataclass(frozen=True, slots=True)
class _Leaf:
    entry: int
    size: int
    writable: bool
    user: bool
    no_execute: bool


class _WalkError(Exception):
    def __init__(self, status: WitnessStatus) -> None:
        super().__init__(status.name)
        self.status = status


class Witness:
    """Walks for one setting of IA32_PAT and the MTRRs."""

    def __init__(self, read_physical: ReadPhysical, pat: int, mtrrs: Mtrrs) -> None:
        self._read = read_physical
        self._pat = pat
        self._mtrrs = mtrrs

    def pat_bit(self, entry: int, size: int) -> bool:
        """Return the PAT bit of a leaf entry: bit 7 of a 4 KiB page's, bit 12 of a larger one's."""
        return bool(entry & (_PAT_4K if size == PAGE else _PAT_LARGE))

    def rights(self, entry: int, above: Rights) -> Rights:
        """Return what an entry leaves of the rights that those above it give."""
        return Rights(
            above.writable and bool(entry & _WRITABLE),
            above.user and bool(entry & _USER),
            above.no_execute or bool(entry & _NO_EXECUTE),
        )

    def walk(self, root: int, address: int, length: int, levels: int) -> WalkResult:
        """Look at every page of [address, address + length) under the table at ``root``.

        ``root`` is CR3 or a physical address; bits outside the address are dropped. The status says
        why a walk ended early; runs before that place are valid.
        """
        report = WalkResult()
        end = address + length
        if levels not in (4, 5) or length <= 0 or not _canonical(address, end - 1, levels):
            report.status = WitnessStatus.BAD_ARGUMENT
            return report
        position = address & ~(PAGE - 1)
        if (end - position + PAGE - 1) // PAGE > WITNESS_MAX_PAGES:
            report.status = WitnessStatus.BAD_ARGUMENT
            return report
        tables: dict[int, bytes] = {}
        try:
            types = pat_types(self._pat)
            while position < end:
                leaf = self._leaf(tables, root & _ADDRESS_MASK, position, levels)
                page_end = (position & -leaf.size) + leaf.size
                base = leaf.entry & _ADDRESS_MASK & -leaf.size
                physical = base + position % leaf.size
                # A large page can span several MTRR types; each gets a run of its own.
                room = self._mtrrs.uniform_limit(physical) - physical
                part = min(page_end, position + room, end + PAGE - 1 & ~(PAGE - 1)) - position
                index = self._pat_index(leaf)
                mtrr = self._mtrrs.type_of(physical)
                _append(
                    report.runs,
                    WitnessRun(
                        position,
                        physical,
                        part,
                        leaf.size,
                        effective_type(mtrr, types[index]),
                        types[index],
                        mtrr,
                        index,
                        leaf.writable,
                        leaf.user,
                        leaf.no_execute,
                    ),
                )
                report.pages += part // PAGE
                position += part
        except _WalkError as error:
            report.status = error.status
        except TableUnreachable:
            report.status = WitnessStatus.TABLE_UNREACHABLE
        except BadMemoryType:
            report.status = WitnessStatus.BAD_ARGUMENT
        if report.status is not WitnessStatus.OK:
            report.fault_address = position
        return report

    def _pat_index(self, leaf: _Leaf) -> int:
        return (
            bool(leaf.entry & _PWT)
            | bool(leaf.entry & _PCD) << 1
            | self.pat_bit(leaf.entry, leaf.size) << 2
        )

    def _leaf(self, tables: dict[int, bytes], root: int, address: int, levels: int) -> _Leaf:
        table, rights = root, Rights()
        for level in range(levels, 0, -1):
            if table not in tables:
                tables[table] = self._read(table, PAGE)
            shift = 12 + 9 * (level - 1)
            (entry,) = _ENTRY.unpack_from(tables[table], 8 * (address >> shift & 0x1FF))
            if not entry & _PRESENT:
                raise _WalkError(WitnessStatus.NOT_PRESENT)
            rights = self.rights(entry, rights)
            if level == 1 or (entry & _LARGE and level in (2, 3)):
                size = 1 << shift
                reserved = (size - 1) & ~(_PAT_LARGE | PAGE - 1) if size > PAGE else 0
                if entry & reserved:
                    raise _WalkError(WitnessStatus.RESERVED_BIT)
                return _Leaf(entry, size, *rights)
            if entry & _LARGE:
                raise _WalkError(WitnessStatus.RESERVED_BIT)
            table = entry & _ADDRESS_MASK
        raise _WalkError(WitnessStatus.BAD_ARGUMENT)


def _canonical(first: int, last: int, levels: int) -> bool:
    bits = 48 if levels == 4 else 57
    top = (1 << 64 - bits + 1) - 1
    return (
        last < 1 << 64 and first >> bits - 1 == last >> bits - 1 and first >> bits - 1 in (0, top)
    )


def _append(runs: list[WitnessRun], run: WitnessRun) -> None:
    """Add a run, joined to the last one where nothing changes but the address."""
    if runs:
        last = runs[-1]
        joined = WitnessRun(
            last.va,
            last.physical,
            last.length + run.length,
            *(getattr(run, name) for name in _ALIKE),
        )
        adjacent = (last.va + last.length, last.physical + last.length) == (run.va, run.physical)
        if adjacent and all(getattr(last, name) == getattr(run, name) for name in _ALIKE):
            runs[-1] = joined
            return
    if len(runs) >= WITNESS_RUN_MAX:
        raise _WalkError(WitnessStatus.TOO_MANY_RUNS)
    runs.append(run)


_ALIKE = (
    *("page_size", "effective", "pat", "mtrr", "pat_index"),
    *("writable", "user", "no_execute"),
)
