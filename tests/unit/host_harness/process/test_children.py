# SPDX-License-Identifier: Apache-2.0
"""Children are ended and reaped with their block, and die with their parent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import children
from tests.processes import processes_that_name, wait_until


def test_child_is_terminated_and_reaped() -> None:
    with children.child(["sleep", "1000"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
    assert children.how_it_ended(process) == "killed by SIGTERM"


def test_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_GRACE_S", 0.3)
    script = "trap '' TERM; echo ready; while true; do sleep 1; done"
    with children.child(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    assert process.returncode == -signal.SIGKILL


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    script = (
        "import sys, time\n"
        "from dma_rehearsal.host_harness.process.children import child\n"
        f"with child([sys.executable, '-c', 'import time; time.sleep(1000)', {marker!r}]):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=SOURCE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate()
    wait_until("the child ends", lambda: not processes_that_name(marker))


def test_wait_notices_the_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("it polls")

    monkeypatch.setattr("time.sleep", sleep)
    with children.child(["sleep", "0.2"]) as process:
        children.wait(process, None)
        assert process.returncode == 0
        children.wait(process, 0)  # it has ended, and stays so


def test_wait_has_a_limit() -> None:
    with children.child(["sleep", "1000"]) as process:
        with pytest.raises(subprocess.TimeoutExpired, match=r"sleep.* timed out after 0\.01 s"):
            children.wait(process, 0.01)
        assert process.poll() is None
