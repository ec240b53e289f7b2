# SPDX-License-Identifier: Apache-2.0
"""Every end has its status: as the exit status, the last line, and in the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import check, run, runs_after_a_pass


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return runs_after_a_pass(tmp_path)


@pytest.mark.parametrize(
    "option", ["--collect-only", pytest.param("--deselect=suite", marks=pytest.mark.full)]
)
def test_run_in_which_nothing_ran_does_not_pass(runs: Path, option: str) -> None:
    done = run(runs, option, "suite/test_direction.py")
    check(done, 2)
    assert "no test ran" in done.output


@pytest.mark.full
def test_stop_at_the_first_failure_is_1(runs: Path) -> None:
    done = run(runs, "--stepwise", "-k", "test_in and 6", FAULT="device-write-flip")
    check(done, 1)
    assert "1 failed" in done.output


def test_endpoint_of_the_tutorial(runs: Path) -> None:
    done = run(
        runs,
        *("--tests", "examples/checksum/guest_tests"),
        ENDPOINT="examples.checksum.checksum_device:Checksum",
    )
    check(done, 0)
    assert "9 passed, 0 failed" in done.output
    assert (done.folder / "junit.xml").exists()
