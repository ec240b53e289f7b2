# SPDX-License-Identifier: Apache-2.0
"""The fixture ``driver`` in a guest: drivers that give trouble, and the faults of the fixture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dma_rehearsal.device.layout.faults.rehearsal import REHEARSAL
from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.faults import Fault
from tests.runs import Run, run_in

TESTS = "tests/vm/driver_fixture/guest_tests"
# A guest whose kernel is stuck can do no more, so each of these has one of its own.
STUCK = ("test_oops", "test_hang_for_ever")


def run(runs: Path, select: str, **settings: str) -> Run:
    """Run the guest tests that ``-k`` selects, with the mirror and its drivers."""
    options = {name.upper(): text for name, text in REHEARSAL[0].options.items()}
    return run_in(SOURCE, runs, "--tests", TESTS, "-k", select, **options, **settings)


def test_trouble_is_told_and_undone(tmp_path: Path) -> None:
    """An unbind that hangs is the last test: it ends, but the fixture goes on with no other."""
    done = run(tmp_path, " and ".join(f"not {each}" for each in STUCK))
    assert done.status == 0
    assert re.search(r"\b1[0-9] passed, 0 failed, 2 xfailed", done.output)
    mapped = {each["promise"] for each in done.attestations["promises"]}
    assert "dma_map_single/page: DMA_TO_DEVICE" in mapped


@pytest.mark.full
@pytest.mark.parametrize("test", STUCK)
def test_a_stuck_kernel_costs_no_verdict(tmp_path: Path, test: str) -> None:
    done = run(tmp_path, test)
    assert done.status == 0
    assert "1 passed, 0 failed" in done.output


@pytest.mark.fires("fault", neighbour="test_trouble_is_told_and_undone")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=pytest.mark.full if index else (), id=fault.name)
        for index, fault in enumerate(REHEARSAL)
    ],
)
def test_fault_is_noticed(tmp_path: Path, fault: Fault) -> None:
    done = run(tmp_path, "test_judged or test_warning", FAULT=fault.name)
    assert done.status == fault.status
    assert fault.message in done.output
