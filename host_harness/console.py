"""Watches the guest's console with pexpect. It is for people and for panics, never for results."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

import pexpect
from pexpect import socket_pexpect

# What init prints when the kernel has handed over, and what the kernel prints when it gives up.
INIT_UP = b"init: up"
_PATTERNS: list[Any] = [
    rb"Kernel panic - not syncing: [^\r\n]*",
    INIT_UP,
    rb"init: the agent ended with status [1-9-][^\r\n]*",
    pexpect.EOF,
]


class Console:
    """A thread that reads the console.

    ``wakeup`` is a descriptor that becomes readable when ``panic``, ``up`` or ``agent_ended``
    changes.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._spawn = socket_pexpect.SocketSpawn(
            stream, timeout=None, maxread=4096, searchwindowsize=8192
        )
        self._stream = stream
        self.wakeup, self._signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.up = False
        self.panic: str | None = None
        self.agent_ended: str | None = None
        self._thread = threading.Thread(target=self._watch, name="console", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and close the descriptors."""
        self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._stream.close()
        os.close(self._signal)
        os.close(self.wakeup)

    def _watch(self) -> None:
        while True:
            try:
                which = self._spawn.expect(list(_PATTERNS))
            except (pexpect.ExceptionPexpect, OSError, ValueError):
                return
            if which == 0:
                # The line may not be whole yet when its first word matched.
                self.panic = _text(self._spawn.after)
            elif which == 1:
                self.up = True
            elif which == 2:
                self.agent_ended = _text(self._spawn.after)
            else:
                return
            with contextlib.suppress(BlockingIOError):  # full: whoever looks has enough to wake up
                os.write(self._signal, b"!")


def _text(matched: object) -> str:
    return matched.decode(errors="replace").strip() if isinstance(matched, bytes) else ""
