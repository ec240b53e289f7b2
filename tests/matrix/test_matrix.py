# SPDX-License-Identifier: Apache-2.0
"""Every profile in whole VMs, coherent and not, behind an IOMMU and not; faults turn cells red."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.host_harness.faults import find
from dma_rehearsal.host_harness.options.run_options import HOSTILE, KIND
from tests.comparison import BOOTED, COLD, EACH
from tests.matrix.cells import PLAIN, Cell, Result, every_cell, run_cell

# In `make test`, too: a narrow device behind an IOMMU. The limits of all profiles are tried in
# process (tests/inprocess/test_profiles.py).
SUBSET = ("soc-30-noncoherent-iommu",)


def _faulty(name: str, fault: str, tests: str, *, iommu: bool = False) -> Cell:
    return Cell(name, profile.find(name).coherent, iommu, fault, ("-k", tests))


_LIMITS = "test_profile.py or test_constraints"
_COMMAND = "test_profile_command"
FAULTY = [
    _faulty("soc-30", "mask-not-honoured", _LIMITS),
    _faulty("soc-30", "coherence-forgotten", "test_profile.py"),
    _faulty("soc-30", "non-coherent-snooped", "test_profile.py"),
    _faulty("soc-30", "allocator-mask-ignored", _COMMAND),
    _faulty("soc-30", "allocator-bounce-not-copied-back", _COMMAND),
    _faulty("soc-30", "allocator-bounce-wrong-direction", _COMMAND),
    _faulty("soc-30", "iommu-mask-ignored", "mask or beyond", iommu=True),
    _faulty("isa-24", "iommu-wrong-permission", "out_mapping", iommu=True),
    _faulty("isa-24", "address-wrapped", _LIMITS),
    _faulty("isa-24", "boundary-crossed", _LIMITS),
]

Recorder = Callable[[str, object], None]


def marked(cell: Cell) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.matrix]
    return [*marks, pytest.mark.vm] if cell.name in SUBSET else marks


def checked(result: Result) -> None:
    again = f"again: {result.command}"
    assert result.ok, f"status {result.status}: {result.complaint}\n{result.unlike}\n  {again}"


@pytest.mark.parametrize(
    "cell", [pytest.param(each, marks=marked(each), id=each.name) for each in every_cell()]
)
def test_cell(cell: Cell, record_property: Recorder) -> None:
    result = run_cell(cell)
    record_property("cell", result.words())
    checked(result)


@pytest.mark.matrix
@pytest.mark.parametrize("cell", FAULTY, ids=lambda cell: cell.name)
def test_fault_turns_its_cell_red(cell: Cell, record_property: Recorder) -> None:
    fault = find(cell.fault)
    result = run_cell(cell, due=fault.status.value)
    record_property("cell", result.words())
    checked(result)
    assert result.complaint.startswith(tuple(f"broken: {name}" for name in fault.promises))


def test_cells_have_different_names_and_commands() -> None:
    cells = [*every_cell(), *FAULTY]
    assert (
        len({cell.name for cell in cells}) == len({cell.command() for cell in cells}) == len(cells)
    )
    assert {cell.name for cell in cells} >= set(SUBSET)
    assert {cell.profile for cell in cells} > {PLAIN, "nvme"}


def test_placement_takes_turns() -> None:
    cells = every_cell()
    for iommu in False, True:
        places = [cell.place for cell in cells if cell.coherent and cell.iommu is iommu]
        assert all(one != other for one, other in pairwise(places))
    for name in {cell.profile for cell in cells}:
        assert {cell.place for cell in cells if cell.profile == name} == {KIND, HOSTILE}
    hostile = [cell for cell in cells if cell.place == HOSTILE]
    assert all("PLACE=hostile" in cell.command() for cell in hostile)


def test_restored_runs_of_each_profile_are_compared_with_cold_ones() -> None:
    compared = {cell.name for cell in every_cell() if cell.starts == EACH}
    own = {cell.profile for cell in every_cell()}
    assert compared >= {f"{name}-{how}" for name in own for how in ("coherent", "noncoherent")}
    assert f"{PLAIN}-coherent-iommu" in compared
    assert all(cell.starts == (COLD, BOOTED) for cell in FAULTY)
    assert not compared & {*SUBSET}, "make test runs them once"


def test_only_the_plain_exerciser_runs_all_tests() -> None:
    whole = {cell.name for cell in every_cell() if not cell.selecting}
    assert whole == {f"{PLAIN}-coherent", f"{PLAIN}-coherent-iommu"}
