# SPDX-License-Identifier: Apache-2.0
"""The matrix's report: the grid, and for a cell that came out wrong the command that repeats it."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace

import pytest

from dma_rehearsal.host_harness.machine import guest_memory
from tests.matrix.cells import CELL_SIZE, PLAIN, Cell, Result, every_cell, parallel
from tests.matrix.grid import COLUMNS, grid

GREEN = Result("nvme", "coherent", "", 0, 0, 12.3, 20.4, 271, 0, {"kept": 300}, "", "make test-vm")
RED = Result(
    *("isa-24", "noncoherent-iommu", "", 1, 0, 9.0, 8.0, 200, 2, {"kept": 1, "broken": 2}),
    *("broken: pool", "make again"),
)
FOUND = Result(
    *("isa-24", "coherent", "address-wrapped", 1, 1, 9.0, 8.0, 200, 2, {"broken": 2}),
    *("broken: constraints", "make fault"),
)


def cells_of(line: str) -> list[str]:
    return [word.strip() for word in line.split("|")]


def test_grid_has_a_row_for_a_profile_and_a_column_for_a_way_to_run_it() -> None:
    other = replace(GREEN, column="noncoherent-iommu", passed=7)
    heads, _, nvme, *rest = grid([GREEN, other])
    assert cells_of(heads) == ["profile", *COLUMNS]
    assert cells_of(nvme) == ["nvme", "271 passed, 12 s", "-", "-", "7 passed, 12 s"]
    assert rest == ["", "2 of 2 cells as due; 25 s of VMs, 41 s of CPUs"]


def test_every_cell_has_a_column() -> None:
    assert {cell.column for cell in every_cell()} == set(COLUMNS)
    with pytest.raises(KeyError, match="no column"):
        grid([replace(GREEN, column="aslant")])


def test_red_cell_has_its_complaint_and_one_command() -> None:
    lines = grid([GREEN, RED], 60.4)
    assert cells_of(lines[3]) == ["isa-24", "-", "-", "-", "RED 1, 2 failed, 9 s"]
    assert lines[-4:] == [
        "isa-24-noncoherent-iommu: broken: pool",
        "  again: make again",
        "",
        "1 of 2 cells as due in 60 s; 21 s of VMs, 28 s of CPUs",
    ]


def test_fault_that_was_found_has_a_row_and_no_command() -> None:
    lines = grid([GREEN, FOUND])
    row = ["address-wrapped", "isa-24", "coherent", "broken: constraints"]
    assert row in map(cells_of, lines)
    assert "make" not in "\n".join(lines)


def test_fault_that_nothing_found_is_wrong() -> None:
    lines = grid([replace(FOUND, status=0, complaint="")])
    assert cells_of(lines[2])[-1] == "NOT FOUND, status 0"
    assert "  again: make fault" in lines
    assert lines[-1].startswith("0 of 1 cells as due")


def test_restored_cell_that_differs_from_a_cold_one_is_wrong() -> None:
    words = "count of tests, passed: cold: 271; booted: 270"
    lines = grid([replace(GREEN, unlike=words), replace(FOUND, unlike=words)])
    assert cells_of(lines[2])[1] == "RED 0, STARTS DIFFER, 12 s"
    assert cells_of(lines[6])[-1] == "STARTS DIFFER, status 1"
    assert f"nvme-coherent: {words}" in lines
    assert lines[-1].startswith("0 of 2 cells as due")


def test_result_travels_as_words() -> None:
    """Between processes: nothing in them but what JSON has."""
    assert Result.of(json.loads(json.dumps(RED.words()))) == RED


def test_command_is_one_for_a_shell() -> None:
    cell = Cell("isa-24", False, True, "address-wrapped", ("-k", "test_profile or test_pool"))
    command = cell.command(7)
    assert shlex.split(command) == [
        *("make", "test-vm", "PROFILE=isa-24", "COHERENT=no", "IOMMU=intel"),
        *("FAULT=address-wrapped", "SEED=7", "ARGS=-k 'test_profile or test_pool'"),
    ]
    assert command.endswith(""" ARGS="-k 'test_profile or test_pool'\"""")
    assert shlex.split(shlex.split(command)[-1].removeprefix("ARGS=")) == list(cell.selecting)
    odd = replace(cell, selecting=("-k", 'a"$b`\\c'))
    (*_, last) = shlex.split(odd.command())
    assert shlex.split(last.removeprefix("ARGS=")) == list(odd.selecting)
    assert Cell(PLAIN, True).command() == "make test-vm COHERENT=yes VMS=1"


@pytest.mark.parametrize(("cpus", "room", "vms"), [(1, 9, 1), (2, 9, 3), (8, 2, 2), (2, 0, 1)])
def test_vms_at_a_time_are_what_the_machine_has_room_for(
    monkeypatch: pytest.MonkeyPatch, cpus: int, room: int, vms: int
) -> None:
    monkeypatch.setattr(guest_memory, "available", lambda: room * CELL_SIZE + 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert parallel() == vms
