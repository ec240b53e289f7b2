# SPDX-License-Identifier: Apache-2.0
"""Shells in real guests, kept VMs and gdb's stub, as a user at a terminal has them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.unit.docs import tutorial
from tests.vm.terminal import LIMIT_S, PROMPT, Terminal


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with ExitStack() as stack:
        yield Terminal(stack)


def finish(child: pexpect.spawn[str], status: int = 0) -> None:
    child.expect(rf"status {status}( \(.+\))?\r\n")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == status


def test_two_shells_and_edits_that_follow(terminal: Terminal, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("device", "dma_rehearsal", "guest", "host_harness"):
        shutil.copytree(SOURCE / name, checkout / name, symlinks=True)
    first = terminal.start("shell", "--runs", str(tmp_path / "runs"), folder=checkout)
    first.expect_exact("You are root", timeout=LIMIT_S)
    first.expect(PROMPT)
    task = "from dma_rehearsal.guest.iobuffer import current_task; print(current_task())"
    first.sendline(f"python3 -c '{task}'; tty; stty size")
    first.expect(r"task \d+")
    first.expect_exact("/dev/hvc0")
    first.expect_exact("33 111")

    second = terminal.start("shell", "--attach", str(tmp_path / "runs" / "latest"))
    second.expect_exact("You are root")
    second.expect(PROMPT)
    second.sendline("tty; sleep 1000")
    second.expect_exact("/dev/hvc1")
    time.sleep(1)
    second.send("\x03")  # is the guest's, not the harness's
    second.expect(PROMPT)
    second.sendline("echo still h''ere")
    second.expect_exact("still here")

    module = checkout / "guest" / "suite" / "live.py"
    module.write_text("print('words', 6 * 7)\n")
    first.sendline("until test -e suite/live.py; do sleep 0.2; done; python3 suite/live.py")
    first.expect_exact("words 42")
    module.unlink()
    first.sendline("while test -e suite/live.py; do sleep 0.2; done; echo it is g''one")
    first.expect_exact("it is gone")

    second.sendline("exit")
    finish(second)
    third = terminal.start("shell", "--attach", str(tmp_path / "runs" / "latest"))
    third.expect(PROMPT)
    third.send("\x1d")  # Ctrl-]
    finish(third)
    first.sendline("exit")
    finish(first)
    assert not (tmp_path / "runs" / "latest" / "vm.json").exists()


def test_shell_has_the_driver_of_a_project(terminal: Terminal, tmp_path: Path) -> None:
    """As the tutorial has it: its device is there, its driver, and edits of it follow."""
    tutorial.write(tmp_path)
    child = terminal.start(
        *("shell", "--tests", "guest_tests"),
        folder=tmp_path,
        ENDPOINT="checksum_device:Checksum",
    )
    child.expect(PROMPT, timeout=LIMIT_S)
    assert "the folder of your tests" in (child.before or "")
    child.sendline("which python3; free; clear")
    child.expect_exact("/usr/bin/python3")
    child.expect("MemAvailable: +[0-9]+ kB")
    child.expect_exact("\x1b[H\x1b[2J")
    for command in tutorial.shell_commands():
        child.sendline(command)
    child.expect_exact("1234:c5c5")
    child.expect_exact("(<Result.IDLE: 0>, 0, 0)")
    (tmp_path / "guest_tests" / "mine.py").write_text("print('words', 6 * 7)\n")
    child.sendline("until test -e mine.py; do sleep 0.2; done; python3 mine.py")
    child.expect_exact("words 42")
    child.sendline("exit")
    finish(child)


def test_kept_vm_can_be_entered_and_debugged(terminal: Terminal, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    kept = terminal.start(
        *("test", "--runs", str(runs), "-k", "test_in_out and 4096"), KEEP="1", GDB="1"
    )
    kept.expect(r"gdb (\S+) -ex 'target remote (\S+)'", timeout=LIMIT_S)
    assert isinstance(kept.match, re.Match)
    kernel, stub = map(Path, kept.match.groups())
    assert kernel.read_bytes()[:4] == b"\x7fELF"
    # On a terminal: live lines for the phase and for the VM, and colours.
    kept.expect(r"\r\x1b\[2K\[ +\d+\.\ds\] boot \.\.\. [1-9]\d* s")
    kept.expect_exact("VM 1: 1 done: idle")
    kept.expect_exact("\x1b[32mkept")
    kept.expect_exact("1 passed, 0 failed")
    kept.expect_exact("the VM is kept")
    kept.expect_exact(f"shell ATTACH={runs}")
    kept.expect_exact("Ctrl-C ends it")

    # The remote protocol of gdb: a packet with its checksum; "?" asks why the target stopped.
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(20)
        gdb.connect(str(stub))
        gdb.sendall(b"+$?#3f")
        answer = b""
        while not re.search(rb"\$T[0-9a-f]{2}", answer):
            answer += gdb.recv(4096)
        gdb.sendall(b"+$D#44")  # detach: the guest goes on

    inside = terminal.start("shell", "--attach", str(runs / "latest"))
    inside.expect(PROMPT)
    count = (
        "from dma_rehearsal.guest.drivers.exerciser import Exerciser; print(Exerciser().dma_count)"
    )
    inside.sendline(f"python3 -c '{count}'")
    inside.expect(r"\r\n\d+\r\n")
    inside.sendline("exit")
    finish(inside)
    assert json.loads((runs / "latest" / "vm.json").read_text())["gdb"] == str(stub)
    kept.kill(signal.SIGINT)
    kept.expect_exact("the kept VM ends")
    finish(kept)
    assert not stub.parent.exists()
