# SPDX-License-Identifier: Apache-2.0
"""Another process for tests: forked, talks to the test, and ends when the test says so."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from dma_rehearsal.guest.iobuffer import TaskPort
from dma_rehearsal.guest.linux import processors
from dma_rehearsal.guest.testkit.buffers import free_sizes

_LENGTH: Final = struct.Struct("<I")
_PATIENCE: Final = 60.0  # seconds
_LIFETIME: Final = 120  # seconds without a word to or from the test

Ask = Callable[[], Any]
"""Waits in the other process for what the test tells it, and returns that."""


class OtherProcessError(Exception):
    """The other process raised; the message is its traceback."""


class OtherProcess:
    """A forked process that runs ``body(ask)``; ``ask()`` there waits for `tell`, and returns it.

    `hear` returns what ``body`` yields. It runs on the CPU ``cpu`` places after the caller's:
    by default on another one. A context manager: the end kills the process.
    """

    def __init__(self, body: Callable[[Ask], Any], cpu: int = 1) -> None:
        self._here, there = socket.socketpair()
        self._here.settimeout(_PATIENCE)
        cpu += processors.current()
        self.pid = os.fork()
        if self.pid == 0:
            self._here.close()
            status = 1
            try:
                signal.alarm(_LIFETIME)  # whatever happens to the test, this does not stay
                processors.place(cpu)
                for answer in body(lambda: self._asked(there)):
                    _send(there, answer)
                    signal.alarm(_LIFETIME)
                status = 0
            except BaseException:
                with contextlib.suppress(OSError):
                    _send(there, OtherProcessError(traceback.format_exc()))
            finally:
                os._exit(status)
        there.close()

    @staticmethod
    def _asked(there: socket.socket) -> Any:
        """Wait for the test, whose time does not count as this process's."""
        word = _receive(there)
        signal.alarm(_LIFETIME)
        return word

    def hear(self) -> Any:
        """Return what the process says next; raise what it raised, or how it ended."""
        try:
            answer = _receive(self._here)
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error
        if isinstance(answer, OtherProcessError):
            raise answer
        return answer

    def tell(self, word: Any = None) -> None:
        """Let it go on; raise what it raised meanwhile, or how it ended."""
        try:
            _send(self._here, word)
        except ConnectionError as error:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    answer = _receive(self._here)
                    if isinstance(answer, OtherProcessError):
                        raise answer from error
            raise self._lost() from error

    def _lost(self) -> OtherProcessError:
        """Return the error that says how it ended; its files are closed, so it has ended."""
        if not self.pid:
            return OtherProcessError("the other process was killed by the test")
        _, status = os.waitpid(self.pid, 0)
        self.pid, code = 0, os.waitstatus_to_exitcode(status)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        why = f": {_LIFETIME} s without a word" if code == -signal.SIGALRM else ""
        return OtherProcessError(f"the other process ended {how} without a word{why}")

    def stop(self) -> None:
        """Stop it, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Let it go on after `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, and wait until it is gone. Killing it again does nothing."""
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
            raise EOFError
        data += part
    return data


def owner_of_buffers(ask: Ask) -> Iterator[object]:
    """In the other process: take buffers that the test made, and report their content."""
    with TaskPort() as port:
        yield port.handle
        while (word := ask()) is not None:
            if word == "receive":
                memory = port.receive(timeout=30)
                yield memory.address
            elif word == "read":
                with memory.view() as view:
                    yield bytes(view)
            elif word == "release":
                memory.release()
                yield free_sizes()
            elif word == "write":
                with memory.view() as view:
                    view[:] = ask()
                yield None
