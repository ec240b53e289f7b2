# SPDX-License-Identifier: Apache-2.0
"""The two timings of a device."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import run_in

TESTS = Path(__file__).parent / "guest_tests" / "timing"


def test_eager_and_held(tmp_path: Path) -> None:
    """A run with a driver under test posts no writes, so that eager means within the store."""
    project = shutil.copytree(TESTS, tmp_path / "project")
    done = run_in(project, tmp_path / "runs", "--tests", "test_timing.py", DRIVER="nvme")
    assert done.status == 0, done.output
    for test in "eager", "held":
        assert f"test_timing.py::test_{test} PASSED" in done.output
    assert '"x-no-posted-writes": true' in (done.folder / "argv").read_text()
