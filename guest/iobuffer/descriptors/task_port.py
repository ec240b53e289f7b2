# SPDX-License-Identifier: Apache-2.0
"""The port through which other processes make buffers and mappings in this one.

A thread answers; `imported_memory` does what a connection asks for. The thread outlives whatever a
call raises: the asker gets it as an error, and the next one is served.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import selectors
import socket
import threading
import time
from typing import Any, Final, Protocol

from dma_rehearsal.guest.iobuffer.base import deferred, mistakes
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.descriptors.imported_memory import import_memory
from dma_rehearsal.guest.iobuffer.memory.backing import Share
from dma_rehearsal.guest.iobuffer.os import port_messages as messages
from dma_rehearsal.guest.iobuffer.os.port_messages import NONSENSE, Ended, Lost

_PAUSE: Final = 0.01  # seconds, when no connection can be accepted


class Imported(Protocol):
    """A buffer or a mapping that was made here for another process."""

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""

    def withdraw(self) -> None:
        """Unmap it; after an error it is still mapped, and the call can be made again."""


class OwnerConnection(Protocol):
    """The connection to the process that asked for a buffer or mapping, while it is open."""

    def go_on(self) -> bool:
        """Answer the messages that have come, without waiting; return whether more can come."""

    def port_closed(self) -> bool:
        """End a mapping that does not outlive the port; return whether this is still needed."""


class TaskPort(Closing):
    """Lets other processes of this user make buffers and mappings in this one.

    ``handle`` is the text to hand over. `receive` returns the buffers made here. A thread answers;
    `close`, or the end of the ``with``, ends that, and unmaps the mappings. The maker of a
    received buffer is heard until it has let go of it.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.handle = f"dma-rehearsal-task-{secrets.token_hex(8)}:{self._pid}"
        self._made: queue.SimpleQueue[Imported] = queue.SimpleQueue()
        self._listener = messages.open_socket(socket.SOCK_NONBLOCK)
        self._listener.bind(messages.address_of(self.handle))
        self._listener.listen(16)
        self._stop, self._stopped = map(messages.own, socket.socketpair())
        self._closed = threading.Event()
        # Each connection, with the owner of the result; None before its call.
        self._lines: dict[socket.socket, OwnerConnection | None] = {}
        self._thread = threading.Thread(target=self._serve, name="task port", daemon=True)
        self._thread.start()

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next buffer that another process made here; it is this process's to release.

        Until its maker has let go of it, by release() or by its end, the maker decides what devices
        may do with it. `Lost` after ``timeout`` seconds, and in a forked child.
        """
        if os.getpid() != self._pid:
            raise Lost(f"the port belongs to process {self._pid}: a fork does not inherit it")
        try:
            return self._made.get(timeout=timeout)
        except queue.Empty:
            raise Lost(f"no buffer came within {timeout} s") from None

    def close(self) -> None:
        """Answer no more; unmap what was mapped here for others, release what was not received."""
        if os.getpid() != self._pid:
            return
        self._stop.close()
        self._closed.wait()
        while True:
            try:
                deferred.finalize(self._made.get_nowait().withdraw, "what was not received")
            except queue.Empty:
                return

    def _serve(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._stopped, selectors.EVENT_READ)
                selector.register(self._listener, selectors.EVENT_READ)
                while not self._closed.is_set() or self._lines:
                    for key, _ in selector.select():
                        self._serve_one(selector, key.fileobj)
        finally:
            self._closed.set()

    def _serve_one(self, selector: selectors.BaseSelector, ready: object) -> None:
        if ready is self._stopped:
            self._shut(selector)
        elif ready is self._listener:
            self._accept(selector)
        elif isinstance(ready, socket.socket) and ready in self._lines:
            line = self._lines[ready]
            try:
                goes_on = line.go_on() if line is not None else self._answer(ready)
            except Exception as error:  # others are to be answered, whatever it is
                goes_on = False
                with contextlib.suppress(Warning):  # which may be made an error
                    mistakes.record(f"the port of this task failed: {error!r}")
            if not goes_on:
                self._hang_up(selector, ready)

    def _hang_up(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        del self._lines[connection]
        selector.unregister(connection)
        connection.close()

    def _shut(self, selector: selectors.BaseSelector) -> None:
        """Accept no more, and end the mappings that do not outlive the port."""
        for each in self._stopped, self._listener:
            selector.unregister(each)
            each.close()
        for connection, line in list(self._lines.items()):
            if line is None or not line.port_closed():
                self._hang_up(selector, connection)
        self._closed.set()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(_PAUSE)  # no descriptor is free: the asker waits, and we do not spin
            return
        messages.own(connection)
        connection.setblocking(False)  # nobody here waits for an asker
        self._lines[connection] = None
        selector.register(connection, selectors.EVENT_READ)

    def _answer(self, connection: socket.socket) -> bool:
        """Do the call that a connection begins with; whether it goes on."""
        try:
            pid, uid = messages.peer_of(connection)
            if uid != os.geteuid():
                raise Lost(f"process {pid} is user {uid}'s")
            message, fds = messages.receive(connection)
        except (OSError, Ended):
            return False
        except Lost as error:
            _say(connection, error)
            return False
        try:
            placed, line = self._do(message, fds, Task(pid), connection)
        except Exception as error:  # the asker's to handle, whatever it is
            _say(connection, error)
            return False
        try:
            messages.send(connection, {"address": placed.address})
        except OSError:
            deferred.finalize(placed.withdraw, "what a task made for a process that is gone")
            return False
        self._lines[connection] = line
        if message["call"] == "make":
            self._made.put(placed)
        return True

    def _do(
        self, message: dict[str, Any], fds: list[int], asker: Task, connection: socket.socket
    ) -> tuple[Imported, OwnerConnection]:
        try:
            call = str(message["call"])
            memory = message["memory"]
            share = Share(
                str(memory["kind"]),
                str(memory["pool"]),
                int(memory["address"]),
                int(memory["size"]),
                CacheMode(int(memory["mode"])),
                tuple(fds),
            )
        except NONSENSE as error:
            messages.close_all(fds)
            raise _no_call(error) from error
        try:
            return import_memory(call, share, message, asker, connection)  # the fds are its own
        except NONSENSE as error:
            raise _no_call(error) from error


def _say(connection: socket.socket, error: Exception) -> None:
    with contextlib.suppress(OSError):
        messages.send(connection, messages.error_reply(error))


def _no_call(error: Exception) -> IOReturnError:
    return IOReturnError(f"a malformed call: {error!r}", code=IOReturn.kIOReturnBadArgument)
