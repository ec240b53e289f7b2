"""The matrix's report: rows, and for a cell that came out wrong the command that repeats it."""

from __future__ import annotations

import json
import shlex

from tests.matrix.cells import PLAIN, Cell, Result, parallel, table

GREEN = Result("nvme-coherent", 0, 0, 12.3, 271, 0, {"kept": 300}, "", "make test-vm PROFILE=nvme")
RED = Result(
    "isa-24-coherent", 1, 0, 9.0, 200, 2, {"kept": 1, "broken": 2}, "broken: pool", "make again"
)
FAULTY = Result(
    "isa-24-coherent-x", 1, 1, 9.0, 200, 2, {"broken": 2}, "broken: constraints", "make fault"
)


def test_green_cells_have_a_row_and_no_command() -> None:
    lines = table([GREEN, FAULTY])
    assert len(lines) == 4
    assert [word.strip() for word in lines[2].split("|")] == [
        *("nvme-coherent", "0", "271", "0", "300", "0", "0", "12.3")
    ]
    assert "make" not in "\n".join(lines)


def test_red_cell_has_its_complaint_and_one_command() -> None:
    lines = table([GREEN, RED])
    assert "| 1, not 0 |" in lines[3]
    assert lines[-2:] == ["isa-24-coherent: broken: pool", "  again: make again"]


def test_result_travels_as_words() -> None:
    """Between processes: nothing in them but what JSON has."""
    assert Result.of(json.loads(json.dumps(RED.words()))) == RED


def test_command_is_one_for_a_shell() -> None:
    cell = Cell("isa-24", False, "address-wrapped", "test_profile or test_constraints")
    assert shlex.split(cell.command(7)) == [
        *("make", "test-vm", "PROFILE=isa-24", "COHERENT=no", "FAULT=address-wrapped", "SEED=7"),
        "ARGS=-k 'test_profile or test_constraints'",
    ]
    assert Cell(PLAIN, True).command() == "make test-vm COHERENT=yes"


def test_machine_has_room_for_one_at_least() -> None:
    assert parallel() >= 1
