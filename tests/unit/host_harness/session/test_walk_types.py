# SPDX-License-Identifier: Apache-2.0
"""The host gives the witness's walks the types of the CPU's registers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dma_rehearsal.host_harness.session import walk_types
from dma_rehearsal.host_harness.verdict.evidence import Walk, WalkRun
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters
from tests.unit.host_harness.machine.saved_states import REGISTERS as SAVED

REGISTERS = TypeRegisters(SAVED.pat, SAVED.def_type, 40, SAVED.ranges, SAVED.fixed)
RAM, DEVICES = 0x0C00_0000, 0xC000_0000
RUN = WalkRun(0x7000_0000, RAM, 0x3000, "WT", 7)


def test_right_walk_stays_as_it_is() -> None:
    walk = Walk(3, True, (RUN, WalkRun(0x8000_0000, DEVICES, 0x1000, "UC", 0)))
    assert walk_types.by_registers([walk], REGISTERS) == ([walk], [])


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (RUN._replace(effective="UC"), "WT"),
        (RUN._replace(pat_index=3), "UC"),
        (RUN._replace(physical=DEVICES), "UC"),
    ],
)
def test_other_type_is_an_objection_and_the_host_s_counts(run: WalkRun, kind: str) -> None:
    (walk,), (said,) = walk_types.by_registers([Walk(0, True, (run,))], REGISTERS)
    assert walk.over(run.va, run.length) == [(run.va, run.physical, run.length, kind)]
    assert f"the witness found {run.effective} at {run.va:#x}" in said
    assert f"it is {kind}" in said


def test_part_of_a_run() -> None:
    """It spans the place where the MTRRs' type changes."""
    run = WalkRun(0x7000_0000, DEVICES - 0x2000, 0x5000, "WB", 0)
    (walk,), (said,) = walk_types.by_registers([Walk(0, True, (run,))], REGISTERS)
    assert [(each.va, each.length, each.effective) for each in walk.runs] == [
        (0x7000_0000, 0x2000, "WB"),
        (0x7000_2000, 0x3000, "UC"),
    ]
    assert "WB at 0x70002000" in said


def test_each_walk_is_objected_to_once() -> None:
    wrong = RUN._replace(effective="WB")
    walks = [Walk(n, True, (wrong, wrong._replace(va=0x9000_0000))) for n in range(2)]
    assert len(walk_types.by_registers(walks, REGISTERS)[1]) == 2


def test_reserved_type_takes_the_walk() -> None:
    reserved = replace(REGISTERS, pat=REGISTERS.pat ^ 6 << 56)
    (walk,), (said,) = walk_types.by_registers([Walk(0, True, (RUN,))], reserved)
    assert not walk.ok
    assert "entry 7 of IA32_PAT" in said
