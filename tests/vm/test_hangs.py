# SPDX-License-Identifier: Apache-2.0
"""A hang under a real guest ends without a verdict, and the message says where it hangs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import run_in

# A folder without a conftest of the host's above it.
TESTS = Path(__file__).parent / "guest_tests"


def test_write_that_is_not_answered_takes_the_verdict(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(TESTS, tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_rings.py"),
        ENDPOINT="tests.unit.device.hanging:Hanging",
    )
    assert done.status == 4
    words = "endpoint does not answer: a write of 0x55 to BAR0 0x0 (DOORBELL) (4 bytes)"
    assert f"no verdict: test test_rings.py::test_rings: {words}" in done.output
    assert "hanging.py" in (done.folder / "device.log").read_text()


def test_guest_test_that_hangs_says_where(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(TESTS, tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_stays.py"),
        DEADLINE="test=6",
    )
    assert done.status == 4
    said = done.output.partition("no verdict: test test_stays.py::test_waits: ")[2]
    assert said.startswith("no answer within its deadline of 6 s")
    assert "the VM was running then; the run ends it" in said
    assert "words before" in said
    assert "in test_waits" in said
