# SPDX-License-Identifier: Apache-2.0
"""A forked process tells its parent what it found, and dies with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from dma_rehearsal.host_harness.process import forked
from dma_rehearsal.host_harness.process.forked import Forked
from tests.processes import wait_until


def end_of(process: Forked) -> int:
    while (status := process.look()) is None:
        pass
    return status


def sleeper(pipe: IO[bytes]) -> int:
    pipe.write(b"ready\n")
    pipe.flush()
    time.sleep(1000)
    return 0


def deaf_sleeper(pipe: IO[bytes]) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleeper(pipe)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_it_writes_and_its_status_arrive() -> None:
    def work(pipe: IO[bytes]) -> int:
        pipe.write(b"x" * 200_000)  # more than a pipe holds
        return 7

    process = forked.start(work)
    assert end_of(process) == 7
    assert process.written == b"x" * 200_000
    assert process.look() == 7, "it has ended, and is asked again"


def test_error_in_it_is_its_status_and_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def work(_pipe: IO[bytes]) -> int:
        raise ValueError("a mistake")

    assert end_of(forked.start(work)) == 70
    assert "ValueError: a mistake" in capfd.readouterr().err


def test_it_has_a_session_of_its_own_and_no_keyboard() -> None:
    def work(pipe: IO[bytes]) -> int:
        pipe.write(f"{os.getsid(0)} {os.read(0, 1)!r}".encode())
        return 0

    process = forked.start(work)
    end_of(process)
    assert process.written.decode() == f"{process.pid} b''"


def test_it_is_terminated() -> None:
    process = forked.start(sleeper)
    assert process.end(20) in (70, -signal.SIGTERM)
    assert not is_alive(process.pid)


def test_it_is_killed_when_it_ignores_that() -> None:
    process = forked.start(deaf_sleeper)
    process.look()
    assert process.end(0.2) == -signal.SIGKILL
    assert not is_alive(process.pid)


def test_second_thread_is_an_error() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="several threads"):
            forked.start(sleeper)
    finally:
        end.set()
        thread.join()


def test_it_dies_with_its_parent() -> None:
    script = (
        "import time\n"
        "from dma_rehearsal.host_harness.process import forked\n"
        "process = forked.start(lambda pipe: time.sleep(1000))\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=SOURCE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until("the forked process ends", lambda: not is_alive(pid))
