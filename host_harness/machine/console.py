# SPDX-License-Identifier: Apache-2.0
"""Watches the guest's console with pexpect, and logs it.

It serves people, panics and the kernel's messages about the IOMMU, never results. The log is
written here and not by QEMU: QEMU (11.1, chardev/char.c) logs a character also when its socket is
full, and once more when it is sent, so under load its ``logfile=`` has some of them twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import pexpect
from pexpect import socket_pexpect

_CATCH_UP_S = 2.0
_POLL_S = 0.005
# init prints its line when the kernel has started it; the kernel prints the panic.
INIT_UP = b"init: up"
_PATTERNS: list[Any] = [
    rb"Kernel panic - not syncing: [^\r\n]*",
    INIT_UP,
    rb"init: the agent ended with status [1-9-][^\r\n]*",
    pexpect.EOF,
]


class _LoggedSpawn(socket_pexpect.SocketSpawn):  # type: ignore[type-arg]  # of the stubs alone
    """Writes everything that it reads to a file, which pexpect's own class does not."""

    log: BinaryIO

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> bytes:
        """Read at most ``size`` bytes; pexpect.EOF at the end of the stream."""
        # Written before it is taken from the socket: once the socket is empty, the log has it all.
        seen = self.socket.recv(size, socket.MSG_PEEK)
        with contextlib.suppress(OSError):  # a full disk: panics must still be noticed
            self.log.write(seen)
        data: bytes = super().read_nonblocking(len(seen) or size, timeout)
        return data


class Console:
    """A thread that reads the console, and writes it to the file ``log``.

    ``wakeup`` is a descriptor that becomes readable when ``panic``, ``up`` or ``agent_ended``
    changes.
    """

    def __init__(self, stream: socket.socket, log: Path) -> None:
        self._spawn = _LoggedSpawn(stream, timeout=None, maxread=4096, searchwindowsize=8192)
        self._spawn.log = log.open("wb", buffering=0)
        self._stream = stream
        self.wakeup, self._signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.up = False
        self.panic: str | None = None
        self.agent_ended: str | None = None
        self._thread = threading.Thread(target=self._watch, name="console", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def catch_up(self) -> None:
        """Wait until the log has what the guest has said so far, `_CATCH_UP_S` at most."""
        end = time.monotonic() + _CATCH_UP_S
        while self._unread() and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(_POLL_S)

    def _unread(self) -> int:
        """Return how many bytes the socket has."""
        return int.from_bytes(
            fcntl.ioctl(self._stream.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder
        )

    def await_end(self, limit_s: float) -> None:
        """Wait until all is read of a console whose QEMU has ended, ``limit_s`` at most."""
        self._thread.join(limit_s)

    def stop(self) -> None:
        """Stop reading and close the descriptors."""
        self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._stream.close()
        self._spawn.log.close()
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
            with contextlib.suppress(BlockingIOError):  # full: the reader wakes up anyway
                os.write(self._signal, b"!")


def _text(matched: object) -> str:
    return matched.decode(errors="replace").strip() if isinstance(matched, bytes) else ""
