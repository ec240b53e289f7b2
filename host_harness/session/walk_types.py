# SPDX-License-Identifier: Apache-2.0
"""The memory types of the platform's walks, by PAT and MTRRs as QEMU saved them.

The guest tells the witness in the device process what PAT and MTRRs hold. So the host takes from a
walk only which pages it found, and which entry of IA32_PAT they select.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dma_rehearsal.host_harness.verdict.evidence import Walk, WalkRun
from dma_rehearsal.host_harness.witness import page_walk
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters, WalkFailed


def by_registers(walks: Sequence[Walk], registers: TypeRegisters) -> tuple[list[Walk], list[str]]:
    """Return the walks with the types that ``registers`` give, and objections to the witness's.

    One objection for each walk of which the witness found another type.
    """
    found, wrong = [], []
    for walk in walks:
        try:
            runs = tuple(part for run in walk.runs for part in _parts(run, registers))
        except WalkFailed as error:
            wrong.append(
                f"a walk of the witness found what the CPU's registers cannot give: {error}"
            )
            found.append(replace(walk, ok=False))
            continue
        found.append(replace(walk, runs=runs))
        wrong += _objections(walk, runs)
    return found, wrong


def _parts(run: WalkRun, registers: TypeRegisters) -> Iterator[WalkRun]:
    va, physical = run.va, run.physical
    for length, kind in page_walk.types_of(registers, run.pat_index, run.physical, run.length):
        yield WalkRun(va, physical, length, kind, run.pat_index)
        va, physical = va + length, physical + length


def _objections(walk: Walk, runs: Sequence[WalkRun]) -> Iterator[str]:
    for run in walk.runs:
        for part in runs:
            if run.va <= part.va < run.va + run.length and part.effective != run.effective:
                yield (
                    f"the witness found {run.effective} at {part.va:#x} (entry {run.pat_index} of "
                    f"IA32_PAT, physical {part.physical:#x}), and by the CPU's PAT and MTRRs, as "
                    f"QEMU saved them, it is {part.effective}: the guest told the witness others, "
                    "or the witness errs"
                )
                return
