# SPDX-License-Identifier: Apache-2.0
"""Three views of the same mapping: the platform's witness, the driver, and the host.

Each has its own walk and decoder. The witness walks by DMA from the root that the driver
names. The driver reads entries in the kernel. The host finds the root in the CPU and walks RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.device.layout import WitnessRun
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer.os.driver import PageTableEntry
from dma_rehearsal.guest.linux import memory_types
from dma_rehearsal.guest.testkit.board import described
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.host_witness import HostReport

HostWitness = Callable[[int, int], HostReport]  # address and length, in bytes

_ADDRESS = 0x000F_FFFF_FFFF_F000
_USER_HALF = 1 << 12  # of CR3 with page-table isolation: Linux puts that table behind the kernel's
_CPUINFO = Path("/proc/cpuinfo")


def isolated() -> bool:
    """Whether this kernel has a separate page table for user mode (pti=on)."""
    # sysfs's list of vulnerabilities does not say it for a CPU that does not need it.
    flags = next(line for line in _CPUINFO.read_text().splitlines() if line.startswith("flags"))
    return "pti" in flags.split()


@dataclass(frozen=True, slots=True)
class Agreement:
    """The three views of one range. ``entries`` are the driver's, for some of its pages."""

    witness: Sequence[WitnessRun]
    entries: Sequence[PageTableEntry]
    host: HostReport
    isolated: bool

    @classmethod
    def of(cls, bench: DmaChecker, host: HostWitness, address: int, length: int) -> Agreement:
        """Have all three look at a range of this process, which must stay mapped as it is.

        The driver looks at the first and the last page of each run that the host saw.
        """
        seen = host(address, length)
        entries = [bench.driver.query(va) for va, _ in seen.translations]
        runs = bench.witness_range(address, length)
        return cls(runs, entries, seen, isolated())

    @property
    def types(self) -> list[str]:
        """The effective types that the witness found, by name, each once."""
        return sorted({run.effective.name for run in self.witness})

    @property
    def facts(self) -> dict[str, str]:
        """The columns of the table of cache modes, beside the mode."""
        return {"effective": "+".join(self.types), "agreed": "driver, host"}

    @property
    def objections(self) -> list[str]:
        """The differences between the views; empty when all agree."""
        return [*self._of_host(), *self._of_driver(), *self._of_qemu()]

    def __str__(self) -> str:
        sizes = sorted({run.page_size for run in self.witness})
        half = ", user half" if self.host.root & _USER_HALF and self.isolated else ""
        return (
            f"{'+'.join(self.types)}, {'+'.join(map(str, sizes))}-byte pages: witness, driver and "
            f"host (root {self.host.root:#x} of {self.host.levels} levels{half}; PAT "
            f"{self.host.pat:#018x} by {self.host.by})"
        )

    def _of_host(self) -> list[str]:
        if tuple(self.witness) == self.host.runs:
            return []
        return [f"the witness: {described(self.witness)}; the host: {described(self.host.runs)}"]

    def _of_driver(self) -> list[str]:
        wrong = []
        for entry in self.entries:
            # With isolation the CPU has the user table, and the driver reports the kernel's.
            differ = entry.root ^ self.host.root
            if differ & ~(_USER_HALF if self.isolated else 0) or entry.levels != self.host.levels:
                wrong.append(
                    f"the driver's root is {entry.root:#x} of {entry.levels} levels, the CPU's "
                    f"{self.host.root:#x} of {self.host.levels}"
                )
            wrong += self._of_entry(entry)
        return wrong

    def _of_entry(self, entry: PageTableEntry) -> list[str]:
        run = next(run for run in self.host.runs if run.va <= entry.address < run.va + run.length)
        size = 1 << 12 + 9 * (entry.level - 1)
        physical = (entry.entry & _ADDRESS & -size) + entry.address % size
        found = physical, size, memory_types.entry_type(entry.entry, self.host.pat, entry.level)
        seen = run.physical + entry.address - run.va, run.page_size, run.pat
        if found == seen:
            return []
        return [
            f"at {entry.address:#x} the driver's entry is {entry.entry:#x} of level {entry.level} "
            f"({found[0]:#x}, {found[2].name}), and the host finds {seen[0]:#x}, {seen[2].name}"
        ]

    def _of_qemu(self) -> list[str]:
        wrong = []
        for run in self.host.runs:
            for va in (run.va, run.va + run.length - PAGE):
                physical = dict(self.host.translations).get(va)
                if physical != run.physical + va - run.va:
                    wrong.append(f"QEMU translates {va:#x} to {physical or 0:#x}")
        return wrong
