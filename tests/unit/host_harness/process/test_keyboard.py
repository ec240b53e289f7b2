# SPDX-License-Identifier: Apache-2.0
"""Keys arrive one by one, and the terminal gets its mode back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process.keyboard import Keyboard

_READS_KEYS = """
import os, signal, sys
from dma_rehearsal.host_harness.process.keyboard import Keyboard
with Keyboard() as keyboard:
    print("there" if keyboard.is_there else "none", flush=True)
    if keyboard.is_there:
        print(repr(keyboard.read()), flush=True)
"""


def mode(terminal: int) -> int:
    return int(termios.tcgetattr(terminal)[3]) & (termios.ICANON | termios.ECHO)


def test_key_arrives_without_enter_and_the_mode_comes_back() -> None:
    ours, theirs = pty.openpty()
    before = mode(theirs)
    process = subprocess.Popen(
        # The terminal controls a session of its own, in whose foreground the program is.
        ["setsid", "--ctty", sys.executable, "-c", _READS_KEYS],
        cwd=SOURCE,
        stdin=theirs,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    assert mode(theirs) == 0
    os.write(ours, b"a")
    assert process.stdout.read() == "'a'\n"
    assert process.wait(10) == 0
    assert mode(theirs) == before
    for each in (ours, theirs):
        os.close(each)


def test_there_are_no_keys_without_a_terminal(tmp_path: Path) -> None:
    file = os.open(tmp_path / "script", os.O_RDWR | os.O_CREAT)
    with Keyboard(file) as keyboard:
        assert not keyboard.is_there
    os.close(file)


def test_terminal_of_others_is_left_alone() -> None:
    ours, theirs = pty.openpty()
    before, handler = mode(theirs), signal.getsignal(signal.SIGCONT)
    with Keyboard(theirs) as keyboard:  # it controls no session, so not this process's
        assert not keyboard.is_there
        assert mode(theirs) == before
    assert signal.getsignal(signal.SIGCONT) is handler
    for each in (ours, theirs):
        os.close(each)
