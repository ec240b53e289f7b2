# SPDX-License-Identifier: Apache-2.0
"""A guest test that hangs says where on the console; one that ends says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
LIMIT_S = 60
RUN = """
import sys
import pytest
from dma_rehearsal.guest.agent.hang import HangPlugin
plugin = HangPlugin(float(sys.argv[2]), int(sys.argv[3]))
sys.exit(pytest.main(["-p", "no:cacheprovider", sys.argv[1]], plugins=[plugin]))
"""
HANGS = """
import time
from pathlib import Path

def test_waits():
    print("words before")
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
"""
CHILD = """
import os, signal

def test_child_ends_by_its_alarm():
    if not (child := os.fork()):
        os.kill(os.getpid(), signal.SIGALRM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM

def test_no_alarm_is_left():
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
"""


def run(folder: Path, test: str, limit_s: float) -> tuple[str, int]:
    """Run a test; return what came on the console, and pytest's status.

    The file ``go`` is there once something came.
    """
    (folder / "test_it.py").write_text(test)
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), str(limit_s), str(theirs)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs],
    )
    os.close(theirs)
    with os.fdopen(ours, "rb") as console:
        said = console.read1()
        (folder / "go").touch()
        said += console.read()
    return said.decode(), process.wait(LIMIT_S)


def test_test_that_hangs(tmp_path: Path) -> None:
    """It may yet end: what it has printed stays for its report."""
    said, status = run(tmp_path, HANGS, 0.4)
    first, *lines = said.splitlines()
    assert first == "test_it.py::test_waits has run for 0.3 s and still runs."
    assert lines[:2] == ["It has printed to stdout:", "words before"]
    assert "in test_waits" in said.partition("It is here")[2]
    assert len(lines) < 20, "the host shows so many"
    assert status == 0


def test_test_that_ends_says_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_it():\n    print('words')\n", LIMIT_S) == ("", 0)


def test_without_a_limit_nothing_is_said(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_it():\n    pass\n", 0) == ("", 0)


def test_alarm_of_a_child_is_its_own(tmp_path: Path) -> None:
    assert run(tmp_path, CHILD, LIMIT_S) == ("", 0)
