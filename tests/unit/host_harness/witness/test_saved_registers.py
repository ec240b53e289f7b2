# SPDX-License-Identifier: Apache-2.0
"""The CPUs' registers come out of QEMU, and it is an objection when they cannot be right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.witness.page_walk import TypeRegisters
from dma_rehearsal.host_harness.witness.saved_registers import SavedRegisters, differences
from tests.unit.host_harness.machine.saved_states import PHYSICAL_BITS, REGISTERS, SavingQemu

SEEN = TypeRegisters(
    REGISTERS.pat, REGISTERS.def_type, PHYSICAL_BITS, REGISTERS.ranges, REGISTERS.fixed
)
OTHER = replace(REGISTERS, pat=0x0007_0406_0007_0406)


def made(folder: Path, *cpus: Any) -> tuple[SavedRegisters, SavingQemu]:
    qemu = SavingQemu(dict(enumerate(cpus or (REGISTERS, REGISTERS))))
    monitor: Any = qemu
    return SavedRegisters(monitor, folder), qemu


def test_look_lets_the_machine_go_on(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    assert not registers.known
    assert registers.look() == []
    assert registers.by_cpu == {0: SEEN, 1: SEEN}
    assert (registers.common, registers.known) == (SEEN, True)
    assert (qemu.commands[0], qemu.commands[-1]) == ("stop", "cont")
    assert not list(tmp_path.iterdir()), "no file stays"


def test_machine_goes_on_after_a_refusal(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    qemu.refuses = "migrate"
    assert registers.look() == []
    assert qemu.commands[-1] == "cont"
    assert "migrate: refused" in registers.unsaved
    assert (registers.common, registers.known) == (None, True)
    qemu.commands.clear()
    assert registers.read() == []
    assert qemu.commands == [], "a QEMU that cannot save is not asked again"


@pytest.mark.parametrize("bits", [None, "40", 0, 31, 53, 40.5])
def test_width_of_addresses_that_cannot_be(tmp_path: Path, bits: object) -> None:
    registers, qemu = made(tmp_path)
    qemu.physical_bits = bits
    assert registers.read() == []
    assert "physical address bits" in registers.unsaved


def test_state_that_lacks_a_cpu_or_cannot_be_read(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    qemu.cpus = {0: REGISTERS, 2: REGISTERS}
    assert registers.read() == []
    assert "no CPU 1" in registers.unsaved
    assert registers.by_cpu == {}


def test_refusal_after_a_state_was_saved_is_an_objection(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    registers.read()
    qemu.refuses = "migrate"
    (said,) = registers.read()
    assert "does not now" in said
    assert registers.common == SEEN


@pytest.mark.parametrize("wrong", [0, 1])
def test_cpus_that_differ(tmp_path: Path, wrong: int) -> None:
    cpus = [REGISTERS, REGISTERS]
    cpus[wrong] = OTHER
    registers, _ = made(tmp_path, *cpus)
    (said,) = registers.read()
    assert f"CPU 1 has IA32_PAT {cpus[1].pat:#x}, and CPU 0 has {cpus[0].pat:#x}" in said
    assert registers.common
    assert registers.common.pat == cpus[0].pat


def test_change_between_two_looks(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    assert registers.read() == registers.read() == []
    qemu.cpus = {0: OTHER, 1: OTHER}
    said = registers.read()
    assert [each.partition(",")[0] for each in said] == [
        f"IA32_PAT of CPU {cpu} was {REGISTERS.pat:#x}" for cpu in (0, 1)
    ]
    assert registers.read() == [], "said once"


def test_monitor_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    registers, qemu = made(tmp_path)
    qemu.refuses = "cont"
    with pytest.raises(MonitorError):
        registers.look()


def test_same_registers_do_not_differ() -> None:
    assert not list(differences(SEEN, SEEN))
    assert not list(differences(SEEN, replace(SEEN, ranges=SEEN.ranges[:1]))), "the rest are zero"
