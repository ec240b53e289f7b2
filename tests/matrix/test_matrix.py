"""Every profile in a whole VM, coherent and not; and faults of its limits, which turn it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from host_harness.faults import find
from tests.matrix.cells import PLAIN, Cell, Result, every_cell, run_cell

# In `make test`, too: a device that reaches next to nothing, so that all of it matters.
SUBSET = ("isa-24-coherent",)
FAULTY = [
    Cell("soc-30", False, "mask-not-honoured", "test_profile or test_constraints"),
    Cell("isa-24", True, "address-wrapped", "test_profile or test_constraints"),
    Cell("isa-24", True, "boundary-crossed", "test_profile or test_constraints"),
]

Recorder = Callable[[str, object], None]


def marked(cell: Cell) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.matrix]
    return [*marks, pytest.mark.vm] if cell.name in SUBSET else marks


def checked(result: Result) -> None:
    assert result.ok, f"status {result.status}: {result.complaint}\n  again: {result.command}"


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
    result = run_cell(cell, due=find(cell.fault).status.value)
    record_property("cell", result.words())
    checked(result)
    assert result.complaint.startswith("broken: constraints")


def test_cells_have_different_names_and_commands() -> None:
    cells = [*every_cell(), *FAULTY]
    assert (
        len({cell.name for cell in cells}) == len({cell.command() for cell in cells}) == len(cells)
    )
    assert {cell.name for cell in cells} >= set(SUBSET)
    assert {cell.profile for cell in cells} > {PLAIN, "nvme"}
