# SPDX-License-Identifier: Apache-2.0
"""Login shells on terminals, which the guest keeps for people."""

from __future__ import annotations

import os
import pty
from pathlib import Path

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
