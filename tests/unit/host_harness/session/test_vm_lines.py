# SPDX-License-Identifier: Apache-2.0
"""What a person sees while tests run, on terminals of several sizes and elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.unit.host_harness.emulated import Emulated

MODULE = ["-m", "tests.unit.host_harness.session.guest_run"]
NAMES = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "PYTEST_ADDOPTS", "CI")


def environment(**settings: str) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if name not in NAMES}
    return {**bare, "PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", **settings}


def started(folder: Path, *words: str, width: int = 80, **settings: str) -> pexpect.spawn[str]:
    return pexpect.spawn(
        sys.executable,
        [*MODULE, *words],
        cwd=str(folder),
        env=environment(**settings),
        dimensions=(24, width),
        encoding="utf-8",
        timeout=120,
        echo=False,
    )


def ended(child: pexpect.spawn[str], before: str = "") -> tuple[str, Emulated]:
    child.expect(pexpect.EOF)
    child.close()
    output = before + (child.before or "")
    screen = Emulated()
    screen.feed(output)
    return output, screen


@pytest.mark.parametrize("width", [60, 80, 200])
def test_live_line_says_what_runs_and_is_gone_in_the_end(tmp_path: Path, width: int) -> None:
    child = started(tmp_path, "2", "4", width=width)
    child.expect(r"VM 1: 4 done[^\r]*")
    running = str(child.after)
    assert running.endswith("guest[4]"), "the end of the name tells tests apart"
    assert len(running) < width
    before = (child.before or "") + running
    child.sendline()
    _, screen = ended(child, before)
    text = "\n".join(screen.lines)
    assert "VM 1" not in text
    assert screen.cursor
    assert re.search(r"\nFAILED \S+\[2\]: exerciser: a write", text), "told at once"
    assert not re.search(r"^[.F]+ *\[", text, re.MULTILINE), "pytest's letters"
    assert "8 passed, 1 failed" in text


def test_window_that_becomes_narrow_does_no_harm(tmp_path: Path) -> None:
    child = started(tmp_path, "2", "4", width=200)
    child.expect(r"VM 1: 4 done")
    before = (child.before or "") + str(child.after)
    child.setwinsize(24, 60)
    child.expect(r"of 9 tests[^\r]*\r\n[^\r]*VM 1: 4 done")
    before += (child.before or "") + str(child.after)
    assert max(map(len, str(child.after).splitlines())) < 60
    child.sendline()
    _, screen = ended(child, before)
    text = "\n".join(screen.lines)
    assert "collected 9 items" in text, "what was there before"
    assert "1 failed" in text


def test_ctrl_c_leaves_a_clean_line(tmp_path: Path) -> None:
    child = started(tmp_path, "2", "4")
    child.expect(r"VM 1: 4 done")
    before = (child.before or "") + str(child.after)
    child.sendintr()
    _, screen = ended(child, before)
    text = "\n".join(screen.lines)
    assert screen.cursor
    assert "VM 1" not in text
    assert "KeyboardInterrupt" in text


def test_no_color_leaves_the_words(tmp_path: Path) -> None:
    output, screen = ended(started(tmp_path, "2", "-", NO_COLOR="1"))
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", output)
    assert "broken: what the host saw" in "\n".join(screen.lines)


def test_last_screen_has_what_where_why_and_next(tmp_path: Path) -> None:
    _, screen = ended(started(tmp_path, "0,1,2,3,4,5,6,7,8", "-"))
    last = "\n".join(screen.lines[-22:])
    assert "FAILED suite/test_made_up_for_the_terminal.py::test_of_a_guest[0]" in last
    for part in ("  where: suite/test_made", "  why: exerciser", "  next: turn it round"):
        assert part in last
    assert re.search(r"and \d more failed", last)


def test_red_run_names_the_command_that_explains_it(tmp_path: Path) -> None:
    child = started(tmp_path, "2", "-", width=200)
    _, screen = ended(child)
    test = "suite/test_made_up_for_the_terminal.py::test_of_a_guest[2]"
    (line,) = [line for line in screen.lines if line.startswith("story: ")]
    assert re.fullmatch(rf"story: dma-rehearsal explain runs/\S+ '{re.escape(test)}'", line)


def run(folder: Path, *words: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, *MODULE, *words],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_pipe_has_plain_lines_and_no_escapes(tmp_path: Path) -> None:
    printed = run(tmp_path, "2", "-")
    assert "\x1b" not in printed
    assert re.search(r"^\[ +\d+\.\ds\] 3 of 9 tests, 1 failed$", printed, re.MULTILINE)
    assert "The story" not in printed
    assert "of 9 tests" not in run(tmp_path, "2", "-", "-q")


def test_verbose_run_has_a_line_for_each_test_and_the_story(tmp_path: Path) -> None:
    printed = run(tmp_path, "2", "-", "-v")
    assert printed.count(" PASSED ") == 8
    assert "The story, from the device's trace" in printed
    assert "  1. exerciser writes 64 bytes at 0x1000: PROTECTION_DIRECTION" in printed


def test_colours_can_be_forced_where_there_is_no_terminal(tmp_path: Path) -> None:
    printed = run(tmp_path, "2", "-", FORCE_COLOR="1")
    assert re.search(r"\x1b\[1;31mbroken", printed)
    assert "\x1b[?25l" not in printed
