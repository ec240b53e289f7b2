# SPDX-License-Identifier: Apache-2.0
"""The owners of memory that was made in this process: their messages, and their end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.os import port_messages as messages
from dma_rehearsal.guest.iobuffer.os.port_messages import NONSENSE, Ended, Lost

_AT_ONCE: Final = 64  # messages; others wait for their turn
_END_MS: Final = 1000  # that a process which has lost its files may need to end


class OwnedMap(Protocol):
    """A mapping that another process made here."""

    def withdraw(self) -> None:
        """Unmap it."""


class OwnedBuffer(Protocol):
    """A buffer that another process made here."""

    _lock: threading.RLock

    def turn(self, direction: IODirection) -> None:
        """Take note that the owner has changed the direction."""

    def take_over(self, *, died: Task | None = None) -> None:
        """Be the owner from now on. ``died``: of whom the grants may still be in force."""


class _Asker:
    """A connection after its call: each message asks for one thing, and has one answer."""

    def __init__(self, task: Task, connection: socket.socket) -> None:
        self.task = task
        self._connection = connection
        self._let_go = False

    def go_on(self) -> bool:
        """Do what the asker has asked for, without waiting; return whether more can come."""
        for _ in range(_AT_ONCE):
            if self._let_go:
                return False
            try:
                message, fds = messages.receive(self._connection)
            except BlockingIOError:
                # A reader of its descriptors in /proc may delay the end for a moment.
                if not has_ended(self.task.pid):
                    return True
                return self._lost()
            except (OSError, Ended):
                return self._lost()
            except Lost as error:
                self._say(messages.error_reply(error))
                continue
            messages.close_all(fds)
            self._reply(message)
        return not self._let_go

    def _lost(self) -> bool:
        self._let_go = True
        self._ended()
        return False

    def _reply(self, message: dict[str, Any]) -> None:
        said: dict[str, Any] = {"number": message.get("number")}
        try:
            self._do(message)
        except Exception as error:  # the asker's to handle, whatever it is
            said |= messages.error_reply(error)
        self._say(said)

    def _say(self, words: dict[str, Any]) -> None:
        # An asker that does not read gets no answer: nobody here waits for it.
        with contextlib.suppress(OSError):
            messages.send(self._connection, words)

    def _do(self, message: dict[str, Any]) -> None:
        """Do what a message asks for; an error is the answer."""
        call = message.get("call")
        if call != "end":
            raise IOBadArgumentError(f"call {call!r}: unknown")
        self._end()
        self._let_go = True

    def _end(self) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """The connection is gone without an end: its process has died."""
        raise NotImplementedError


class MapOwner(_Asker):
    """The owner of memory that is mapped here. Its word, or its end, unmaps the memory."""

    def __init__(self, placed: OwnedMap, task: Task, connection: socket.socket) -> None:
        super().__init__(task, connection)
        self._placed = placed

    def port_closed(self) -> bool:
        """Unmap it."""
        self._ended()
        return False

    def _end(self) -> None:
        self._placed.withdraw()

    def _ended(self) -> None:
        deferred.finalize(self._placed.withdraw, f"a mapping of {self.task}'s memory")


class Maker(_Asker):
    """The maker of a buffer that is this process's, and its owner until it lets go of it.

    Locked by the buffer's lock: the port's thread hears it, and so does each user of the buffer.
    """

    def __init__(self, buffer: OwnedBuffer, task: Task, connection: socket.socket) -> None:
        super().__init__(task, connection)
        self._lock = buffer._lock
        self._buffer = weakref.ref(buffer)  # a dropped buffer is given back

    def go_on(self) -> bool:
        """See `_Asker`."""
        with self._lock:
            return super().go_on()

    def port_closed(self) -> bool:
        """The buffer outlives the port, and so does this."""
        return True

    def _do(self, message: dict[str, Any]) -> None:
        if message.get("call") != "direction":
            super()._do(message)
            return
        try:
            direction = IODirection(message["direction"])
        except NONSENSE as error:
            raise IOBadArgumentError(f"direction: {error!r}") from error
        self._with_buffer(lambda buffer: buffer.turn(direction))

    def _end(self) -> None:
        self._with_buffer(lambda buffer: buffer.take_over())

    def _ended(self) -> None:
        self._with_buffer(lambda buffer: buffer.take_over(died=self.task))

    def _with_buffer(self, call: Callable[[OwnedBuffer], None]) -> None:
        buffer = self._buffer()
        if buffer is not None:
            call(buffer)


def wait_for_end(pid: int) -> None:
    """Wait until a process whose connection has ended is gone itself, for a second at most.

    Its files are closed a moment before it counts as ended, and its grants with it.
    """
    has_ended(pid, _END_MS)


def has_ended(pid: int, patience: int = 0) -> bool:
    """Whether a process has ended, or does within ``patience`` milliseconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # unknown
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(patience))
    finally:
        os.close(fd)
