"""Another process for tests: forked, tells the test what it finds, and dies when it is told to."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from . import processors

_LENGTH: Final = struct.Struct("<I")
_PATIENCE: Final = 60.0  # seconds


class OtherProcessError(Exception):
    """The other process raised; the message is its traceback."""


class OtherProcess:
    """A forked process that runs ``body(ask)``; ``ask()`` there waits for `tell`, and returns it.

    What ``body`` yields comes out of `hear`. It runs on the CPU that ``cpu`` counts from the
    caller's, modulo all: on another one. A context manager: the end kills the process.
    """

    def __init__(self, body: Callable[[Callable[[], Any]], Any], cpu: int = 1) -> None:
        self._here, there = socket.socketpair()
        self._here.settimeout(_PATIENCE)
        cpu += processors.current()
        self.pid = os.fork()
        if self.pid == 0:
            self._here.close()
            status = 1
            try:
                signal.alarm(120)  # whatever happens to the test, this does not stay
                processors.place(cpu)
                for answer in body(lambda: _receive(there)):
                    _send(there, answer)
                status = 0
            except BaseException:
                with contextlib.suppress(OSError):
                    _send(there, OtherProcessError(traceback.format_exc()))
            finally:
                os._exit(status)
        there.close()

    def hear(self) -> Any:
        """Return what the process says next; raise what it raised."""
        answer = _receive(self._here)
        if isinstance(answer, OtherProcessError):
            raise answer
        return answer

    def tell(self, word: Any = None) -> None:
        """Let it go on."""
        _send(self._here, word)

    def stop(self) -> None:
        """Stop it, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Let it go on after `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, and wait until it is gone. Again is nothing."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._here.close()


def _send(connection: socket.socket, what: Any) -> None:
    data = pickle.dumps(what)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket) -> Any:
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise OtherProcessError("the other process ended without a word")
        data += part
    return data
