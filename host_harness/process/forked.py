# SPDX-License-Identifier: Apache-2.0
"""Work in a forked process, which has everything that this one has imported.

It has a session of its own, so Ctrl-C at the terminal reaches this process alone. It reads nothing
from the terminal, and it dies with this process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO

from dma_rehearsal.host_harness.process.children import die_with

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CRASHED = 70  # EX_SOFTWARE
_PART = 1 << 16

Work = Callable[[IO[bytes]], int]


class Forked:
    """A forked process that does some work, and what it has written so far.

    ``fileno()`` is readable when there is more, or when the process has ended; call `look` then.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.written = b""
        self._pipe = pipe
        self._status: int | None = None

    def fileno(self) -> int:
        """Return the end of the pipe to wait for, until the process has ended."""
        return self._pipe

    def look(self) -> int | None:
        """Read what is there; return the status (negative: a signal) when the process has ended.

        It waits until something is there.
        """
        if self._status is None:
            part = os.read(self._pipe, _PART)
            self.written += part
            if not part:
                self._reap()
        return self._status

    def end(self, grace_s: float) -> int:
        """Have the process end: by SIGTERM, after ``grace_s`` seconds by SIGKILL.

        Return its status. KeyboardInterrupt kills it at once.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self, selectors.EVENT_READ)
                while self._status is None and selector.select(grace_s):
                    self.look()
        finally:
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)
                self._reap()
        return self._status or 0

    def _reap(self) -> None:
        _, code = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(code)
        os.close(self._pipe)


def start(work: Work) -> Forked:
    """Fork a process that calls ``work`` with a pipe to this one, and ends with its status.

    Call it from the main thread, while there is no other: a fork copies the locks of the others,
    and the kernel ends the process with the thread that forked. RuntimeError where there is one.
    """
    if threading.active_count() > 1:
        raise RuntimeError("a process with several threads cannot fork safely")
    reading, writing = os.pipe()
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # A signal must find either no child or one that is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid:
        os.close(writing)
        forked = Forked(pid, reading)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return forked
    status = _CRASHED
    try:
        os.close(reading)
        os.setsid()
        die_with(parent)
        _read_nothing()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with os.fdopen(writing, "wb") as pipe:
            status = work(pipe)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _read_nothing() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
