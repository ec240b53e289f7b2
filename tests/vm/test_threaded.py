# SPDX-License-Identifier: Apache-2.0
"""Under a real guest, work of a thread and of a watched socket ends in an interrupt."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runs import run_in

TESTS = Path(__file__).parent / "guest_tests"


def test_thread_watch_and_coroutine(tmp_path: Path) -> None:
    done = run_in(
        shutil.copytree(TESTS, tmp_path / "project"),
        tmp_path / "runs",
        *("--tests", "test_threaded.py"),
        ENDPOINT="tests.vm.threaded_endpoint:Mirror",
    )
    assert done.status == 0
    assert "2 passed, 0 failed" in done.output
    assert "did not end within" not in (done.folder / "device.log").read_text()
