# SPDX-License-Identifier: Apache-2.0
"""Orders that a seed draws, and the runs that compare them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.runs import run_order

pytestmark = pytest.mark.full

DEPENDS = """
import pytest

BEFORE = []

@pytest.mark.parametrize("number", range(6))
def test_first(number, attest):
    assert not BEFORE
    BEFORE.append(number)

def test_every_time(): ...
"""


def test_test_that_depends_on_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_depends.py").write_text(DEPENDS)
    done = run_order(tmp_path, "--tests", "guest_tests", "--sample", "7")
    assert done.returncode == 1
    rows = {
        match[1]: re.split(r" *\| *", match[2])
        for match in re.finditer(r"^\S+::(\S+) +\| +\| (.*)$", done.stdout, re.M)
    }
    # Each of them passes alone, and one in each order.
    assert "test_every_time" not in rows
    assert {row[2] for row in rows.values()} == {"passed"}
    assert len(rows) >= 5
    assert "again: make test-order SEED=7 N=7" in done.stdout


def test_tests_that_depend_on_nothing_agree(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_sound.py").write_text("def test_sound(): ...\n")
    done = run_order(tmp_path, "--tests", "guest_tests")
    assert done.returncode == 0
    assert "1 tests in two orders and 1 of them alone: the same verdicts" in done.stdout
    statuses = (tmp_path / "build" / "runs" / "order").glob("*/latest/status")
    assert [path.read_text() for path in statuses] == ["0\n"] * 3


def test_failure_in_every_order_is_no_difference_and_no_success(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_fails.py").write_text("def test_fails(): assert False\n")
    done = run_order(tmp_path, "--tests", "guest_tests")
    assert done.returncode == 1
    assert "the same verdicts" in done.stdout
    assert "the run in shuffled order itself did not pass" in done.stdout
