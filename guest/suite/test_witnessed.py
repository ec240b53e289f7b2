# SPDX-License-Identifier: Apache-2.0
"""Mappings of memory as three see them who share no code: witness, driver and host.

The witness takes its page-table root from the driver, the host takes it out of the CPU.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import ExerciserBar, MemoryType
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer import IOOptions, kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Agreement,
    Attest,
    DmaChecker,
    HostWitness,
    MakeBuffer,
    Patterns,
)
from dma_rehearsal.guest.testkit.claims import MODES, each_cache_mode

pytestmark = pytest.mark.any_device

LARGE = 2 << 20
MEMTYPES = Path("/sys/kernel/debug/x86/pat_memtype_list")
# Linux's names of the types: arch/x86/mm/pat/memtype.c, cattr_name()
_LISTED = re.compile(r"PAT: \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] (\S+)")
_NAMES = {
    "uncached": MemoryType.UC,
    "uncached-minus": MemoryType.UC_MINUS,
    "write-combining": MemoryType.WC,
    "write-through": MemoryType.WT,
    "write-back": MemoryType.WB,
}


def address_of(mapped: memoryview) -> int:
    """Return where the memory is mapped; it stays mapped, and may be unmapped."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))


@pytest.mark.unlimited("alignment")
@each_cache_mode()
def test_driver_and_host_agree(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    host_witness: HostWitness,
    mode: str,
) -> None:
    """Not page-aligned, and not a whole number of pages."""
    option, wanted = MODES[mode]
    memory = buffer(kIODirectionInOut | IOOptions.of(option), 5 * PAGE + 100)
    bench.device_writes(memory, data.take(5 * PAGE + 100))
    found = Agreement.of(bench, host_witness, memory.address, memory.getLength())
    attest(
        mode,
        asked=f"{wanted.name}, found by all who look",
        attested=found,
        kept=not found.objections and found.types == [wanted.name],
        reason="; ".join(found.objections),
        facts={"mode": mode, **found.facts},
        evidence="walk",
    )


@pytest.mark.kernel
@each_cache_mode()
def test_kernel_lists_the_same_type(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, mode: str
) -> None:
    """The kernel's own list of what it mapped how, in place of its page tables."""
    option, wanted = MODES[mode]
    memory = buffer(kIODirectionInOut | IOOptions.of(option), 3 * PAGE, PAGE)
    bench.device_writes(memory, data.take(3 * PAGE))
    (run,) = bench.witness(memory)
    listed = sorted(
        {
            _NAMES.get(name, name)
            for start, end, name in _LISTED.findall(MEMTYPES.read_text())
            if int(start, 16) < run.physical + run.length and run.physical < int(end, 16)
        }
    )
    attest(
        mode,
        asked=f"{wanted.name} in the kernel's list",
        attested=f"{', '.join(str(getattr(each, 'name', each)) for each in listed)} for "
        f"{run.length} bytes at {run.physical:#x}; witness {run.pat.name}",
        kept=listed == [wanted] and run.pat is wanted,
        evidence="walk",
    )


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise("page size")
def test_huge_page(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, host_witness: HostWitness
) -> None:
    """One entry for 2 MiB, whose PAT bit is another one than that of 4 KiB."""
    memory = buffer(kIODirectionInOut, LARGE, LARGE, pool="hugetlb")
    bench.device_writes(memory, data.take(LARGE))
    found = Agreement.of(bench, host_witness, memory.address, LARGE)
    (run, *others) = found.witness
    attest(
        "page size",
        asked=f"{LARGE} bytes in one page",
        attested=f"PAT entry {run.pat_index}; {found}",
        kept=not found.objections
        and not others
        and (run.page_size, run.pat_index, run.effective) == (LARGE, 0, MemoryType.WB),
        reason="; ".join(found.objections),
        evidence="walk",
    )


@pytest.mark.kernel
@pytest.mark.promise("MTRR")
def test_registers_lie_where_the_mtrrs_say_uncached(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, host_witness: HostWitness
) -> None:
    """RAM is WB by the MTRRs, the device's registers are not; both in one run."""
    memory = buffer(kIODirectionInOut, PAGE, PAGE)
    bench.device_writes(memory, data.take(PAGE))
    places = memory.address, address_of(bench.device.pci.bar(ExerciserBar.CONTROL).data)
    ram, device = (Agreement.of(bench, host_witness, place, PAGE) for place in places)
    types = [(each.witness[0].mtrr, each.witness[0].effective) for each in (ram, device)]
    objections = [*ram.objections, *device.objections]
    attest(
        "MTRR",
        asked="WB for RAM, UC for registers",
        attested=f"{', '.join(mtrr.name for mtrr, _ in types)}; registers: {device}",
        kept=not objections
        and types == [(MemoryType.WB, MemoryType.WB), (MemoryType.UC, MemoryType.UC)],
        reason="; ".join(objections),
        evidence="walk",
    )
