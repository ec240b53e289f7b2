# SPDX-License-Identifier: Apache-2.0
"""Requests to another process: `request` has it map our memory; `Remote` is the result.

The other process opens a `TaskPort` (`task_port`) and hands the port's ``handle``, a text, to
others of the same user; `task_of` makes a `Task` of it. Memory is passed as descriptors over a Unix
socket, one connection for each call, which stays open as long as the buffer or mapping. The asker
keeps the grants: the other process maps the memory, and answers when it has unmapped it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.memory.backing import Share
from dma_rehearsal.guest.iobuffer.os import port_messages as messages
from dma_rehearsal.guest.iobuffer.os.port_messages import NONSENSE, Ended, Lost


def task_of(handle: str) -> Task:
    """Return the task whose port has this handle. `IODeviceError` for any other text."""
    name, _, pid = handle.rpartition(":")
    if not name or not pid.isdecimal() or int(pid) <= 0:
        raise IODeviceError(
            f"{handle!r} is not the handle of a task", code=IOReturn.kIOReturnBadArgument
        )
    return Task(int(pid), handle)


def no_handle(task: Task) -> IODeviceError:
    """Return the error that nothing can be made in a process that handed nothing over."""
    return IODeviceError(
        f"{task}: no handle; let that process open a TaskPort, and use task_of(its handle)",
        code=IOReturn.kIOReturnNotAttached,
    )


class Remote:
    """A buffer or mapping that another task made for us, at ``address`` there. Not locked."""

    def __init__(self, task: Task, connection: socket.socket, address: int) -> None:
        self.address = address
        self._task = task
        self._connection = connection
        self._number = 0

    def set_direction(self, direction: IODirection, *, wait: bool = True) -> None:
        """Tell the task what devices may do from now on; errors as for `close`.

        Without ``wait`` it hears so before anything that is said later.
        """
        if wait:
            self._call("direction", direction=int(direction))
        elif not self._closed:
            self._say("direction", direction=int(direction))

    def close(self) -> None:
        """Have the task end it (unmap it, or take it over), and return when that is done.

        Raises the error that the task raised, with its code, or `Lost` when it does not answer
        within 5 s; it is not ended then, and the call can be made again. A task that has ended has
        done so.
        """
        if not self._closed:
            self._call("end")
            self._connection.close()

    def drop(self) -> None:
        """Have the task end it, and do not wait: for a finalizer."""
        if not self._closed:
            self._say("end")
            self._connection.close()

    @property
    def _closed(self) -> bool:
        """Whether it is ended. It is for a forked child, which has no connection of its parent."""
        return self._connection.fileno() < 0

    def _say(self, call: str, **details: int) -> None:
        """Send a message without waiting for its answer; a task that has ended hears nothing."""
        self._connection.setblocking(False)
        with contextlib.suppress(OSError):
            messages.send(self._connection, {"call": call, "number": 0, **details})

    def _call(self, call: str, **details: int) -> None:
        """Have the task do something, and wait until it is done; a task that has ended has."""
        if self._closed:
            return
        self._number += 1
        try:
            self._connection.settimeout(messages.PATIENCE)
            messages.send(self._connection, {"call": call, "number": self._number, **details})
            reply = next(each for each in self._replies() if each.get("number") == self._number)
        except (Ended, ConnectionError):
            return
        except OSError as error:
            raise Lost(
                f"{self._task} does not answer to {call!r} within {messages.PATIENCE:g} s "
                f"({error}), and has the memory mapped still: let it go on, or end it, and call "
                "again"
            ) from error
        _raise(self._task, reply)

    def _replies(self) -> Iterator[dict[str, Any]]:
        """Yield the answers that come in time, including late ones to earlier calls."""
        end = time.monotonic() + messages.PATIENCE
        while (left := end - time.monotonic()) > 0:
            self._connection.settimeout(left)
            reply, fds = messages.receive(self._connection)
            messages.close_all(fds)
            yield reply
        raise TimeoutError("timed out")


def request(task: Task, call: str, share: Share, details: dict[str, Any]) -> Remote:
    """Have ``task`` take the memory, and do ``call`` with it.

    Raises the error that the task raised, with its code; `Lost` when it does not answer within 5 s.
    """
    if not task.handle:
        raise no_handle(task)
    connection = messages.open_socket()
    try:
        connection.settimeout(messages.PATIENCE)
        try:
            connection.connect(messages.address_of(task.handle))
            if messages.peer_of(connection) != (task.pid, os.geteuid()):
                raise Lost(f"{task}: another process answers at its handle")
            memory = {
                "kind": share.kind,
                "pool": share.pool,
                "address": share.address,
                "size": share.size,
                "mode": share.mode,
            }
            messages.send(connection, {"call": call, "memory": memory, **details}, share.fds)
            reply, fds = messages.receive(connection)
        except OSError as error:
            raise Lost(f"{task} does not answer: {error}") from error
        except Ended as error:
            raise Lost(f"{task} does not answer: {error.reason}") from error
        messages.close_all(fds)
        _raise(task, reply)
        try:
            return Remote(task, connection, int(reply["address"]))
        except NONSENSE as error:
            raise _no_answer(task, error) from error
    except BaseException:
        connection.close()
        raise


def _raise(task: Task, reply: dict[str, Any]) -> None:
    """Raise the error that the task raised."""
    if "code" not in reply:
        return
    try:
        code = IOReturn(reply["code"])
    except NONSENSE as error:
        raise _no_answer(task, error) from error
    raise IOReturnError(f"{task}: {reply.get('reason')}", code=code)


def _no_answer(task: Task, error: Exception) -> Lost:
    return Lost(f"{task} gave a malformed answer: {error!r}")
