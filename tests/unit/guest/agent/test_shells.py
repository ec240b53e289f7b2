# SPDX-License-Identifier: Apache-2.0
"""Login shells on terminals, which the guest keeps for people."""

from __future__ import annotations

import os
import pty
import termios
from pathlib import Path

import pexpect
import pytest

from dma_rehearsal.guest.agent import shells
from dma_rehearsal.host_harness.cli import shell as host


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the terminals that get a shell."""
    found: list[str] = []
    monkeypatch.setattr(shells, "STARTED", tmp_path / "run" / "shells")
    monkeypatch.setattr(shells, "_start_keeper", found.append)
    monkeypatch.setenv("HOME", str(tmp_path))
    return found


def test_each_console_gets_one_shell_however_often_the_guest_resumes(started: list[str]) -> None:
    shells.start(0)
    assert not shells.STARTED.exists()
    shells.start(2)
    shells.start(2)
    shells.start(0)
    assert started == ["/dev/hvc0", "/dev/hvc1"]
    shells.start(4)
    assert started == ["/dev/hvc0", "/dev/hvc1", "/dev/hvc2", "/dev/hvc3"]


def test_profile_is_there_before_a_shell_is(started: list[str], tmp_path: Path) -> None:
    shells.start(1)
    assert "PS1=" in (tmp_path / ".bash_profile").read_text()
    assert started


def test_host_is_told_that_a_shell_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shell").write_text('#!/bin/sh\nread words && echo "got $words"\n')
    (tmp_path / "shell").chmod(0o755)
    monkeypatch.setattr(shells, "SHELL", str(tmp_path / "shell"))
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"a line\n")
        shells.keep(os.ttyname(theirs))
        said = b""
        while not said.endswith(host.SHELL_ENDED):
            said += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"got a line" in said


def test_terminal_is_silent_until_the_shell_reads() -> None:
    """A size that the host sends early would otherwise be seen as text."""
    ours, theirs = pty.openpty()
    try:
        assert termios.tcgetattr(theirs)[3] & termios.ECHO
        shells._do_not_echo(theirs)
        assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_first_user_is_greeted_and_the_size_is_not_echoed(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    profile.write_text(shells.SHELL_PROFILE)
    bash = pexpect.spawn(
        "bash",
        ["--rcfile", str(profile), "-i"],
        cwd=str(tmp_path),
        timeout=20,
        encoding="utf-8",
    )
    try:
        bash.expect_exact("# ")
        bash.send(f"{host.SIZE_KEY}12;90~")
        bash.expect_exact("A guest with the rehearsal's devices")
        bash.expect_exact("exit or Ctrl-]")
        assert "777" not in str(bash.before)
        bash.expect_exact("# ")
        bash.send(f"{host.SIZE_KEY}7;80~")
        bash.sendline("stty size")
        bash.expect_exact("7 80")
        assert "A guest" not in str(bash.before), "once is enough"
        bash.sendline("seq 100 120 | more; echo e''nd")
        bash.expect_exact("105\r\n--more--")
        bash.send(" ")
        bash.expect_exact("111\r\n--more--")
        bash.send("\r")
        bash.expect_exact("112\r\n--more--")
        bash.send("q")
        bash.expect_exact("end")
        assert "113" not in str(bash.before)
        bash.sendline("seq 100 120 | more | cat; echo e''nd")
        bash.expect_exact("120\r\nend")
    finally:
        bash.close(force=True)
