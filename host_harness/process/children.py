# SPDX-License-Identifier: Apache-2.0
"""Child processes that cannot outlive the harness, and neither can their own children.

Each runs in a session of its own, so Ctrl-C at the terminal reaches the harness alone, and its
process group is known to the janitor before its program begins.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dma_rehearsal.host_harness.process import janitor

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_GRACE_S = 2


def die_with(parent: int) -> None:
    """Have this process, which ``parent`` has just forked, killed at the end of ``parent``."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(127)


def _prepare(parent: int, register: Callable[[], None]) -> Callable[[], None]:
    def prepare() -> None:
        register()
        die_with(parent)

    return prepare


@contextmanager
def child(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` for the length of the block; terminated, then killed, and always reaped.

    Its own children in its group are killed with it. Start children from the main thread:
    the kernel sends the parent-death signal when the thread that forked ends. OSError when the
    program cannot be started.
    """
    with janitor.registrar() as register:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=environment,
            cwd=cwd,
            preexec_fn=_prepare(os.getpid(), register),
            start_new_session=True,
        )
    janitor.keep_group(process.pid)
    started = janitor.start_time(process.pid)
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        janitor.kill_group(process.pid, started)
        process.wait()
        janitor.drop_group(process.pid)


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    input: bytes = b"",
    stdout: int | IO[bytes] = subprocess.PIPE,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end and return its status and output, as text.

    After ``timeout_s`` seconds its whole group is killed and subprocess.TimeoutExpired is raised.
    OSError when the program cannot be started.
    """
    with child(
        command,
        stdin=subprocess.PIPE if input else subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        environment=environment,
        cwd=cwd,
    ) as process:
        try:
            said, complaints = process.communicate(input or None, timeout_s)
        except subprocess.TimeoutExpired:
            janitor.kill_group(
                process.pid, janitor.start_time(process.pid)
            )  # at once: its result is not needed any more
            raise
    return subprocess.CompletedProcess(
        list(command),
        process.returncode,
        (said or b"").decode(errors="replace"),
        complaints.decode(errors="replace"),
    )


def wait(process: subprocess.Popen[bytes], timeout_s: float | None) -> None:
    """Wait for the end of a process, and notice it at once; `Popen.wait` looks every 50 ms.

    subprocess.TimeoutExpired after ``timeout_s`` seconds; None is no limit.
    """
    if process.poll() is None:
        ended = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ)
                selector.select(timeout_s)
        finally:
            os.close(ended)
    if process.poll() is None:
        raise subprocess.TimeoutExpired(process.args, timeout_s or 0)


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """Describe a process's end: its status, or the name of the signal."""
    code = process.poll()
    if code is None:
        return "still running"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"status {code}"
