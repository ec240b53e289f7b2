"""Buffers and mappings in another process: the port that it opens, and the handle of that.

A process that wants memory made in it opens a `TaskPort` and hands the port's ``handle``, a text,
to others of the same user; `task_of` makes a `Task` of it. Memory is passed as descriptors over a
Unix socket, one connection for each call. A connection that made a mapping stays open as long as
the mapping: when the asker dies, the mapping goes; what was made *in* the task is the task's own.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import queue
import secrets
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, Self

from .backing import Share
from .errors import IODeviceError, IOReturn, IOReturnError
from .options import CacheMode
from .task import Task

_MESSAGE_MAX: Final = 4096
_FDS_MAX: Final = 4
_PATIENCE: Final = 5.0  # seconds that either side waits for the other
# What numbers, names and shapes that are none raise where they are looked at.
_NONSENSE: Final = (KeyError, TypeError, ValueError, OverflowError)
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class Lost(IODeviceError):
    """The other task does not answer, or not in our words."""

    default_code = IOReturn.kIOReturnNotAttached


class Placed(Protocol):
    """What a task made for somebody else."""

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""

    def withdraw(self) -> None:
        """Unmap it, as soon as nothing here looks at it."""


def task_of(handle: str) -> Task:
    """Return the task whose port has this handle. `IODeviceError` for a text that is none."""
    name, _, pid = handle.rpartition(":")
    if not name or not pid.isdecimal() or int(pid) <= 0:
        raise IODeviceError(f"{handle!r} is no task's handle", code=IOReturn.kIOReturnBadArgument)
    return Task(int(pid), handle)


def _address(handle: str) -> str:
    return f"\0{handle}"


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return the other end's process id and user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _send(connection: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    connection.sendmsg([json.dumps(message).encode()], rights)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return one message and the descriptors with it; `Lost` when it is none."""
    data, rights, _, _ = connection.recvmsg(
        _MESSAGE_MAX, socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize), 0x40000000
    )  # MSG_CMSG_CLOEXEC
    fds = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    try:
        message = json.loads(data)
        if isinstance(message, dict):
            return message, list(fds)
    except (ValueError, RecursionError):
        pass
    _close(fds)
    raise Lost(f"{len(data)} bytes that are no message" if data else "the connection ended")


def _close(fds: Iterable[int]) -> None:
    """Close descriptors that nobody else knows yet. Once: their numbers are used again."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def no_handle(task: Task) -> IODeviceError:
    """Return the error that nothing can be made in a process that handed nothing over."""
    return IODeviceError(
        f"{task}: no handle; let that process open a TaskPort, and use task_of(its handle)",
        code=IOReturn.kIOReturnNotAttached,
    )


class Remote:
    """What another task made for us: its ``address`` there. `close` has it unmapped."""

    def __init__(self, connection: socket.socket, address: int) -> None:
        self._connection = connection
        self.address = address

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def ask(task: Task, call: str, share: Share, details: dict[str, Any]) -> Remote:
    """Have ``task`` take the memory, and do ``call`` with it.

    Raises what the task raised, with its code; `Lost` when it does not answer within 5 s.
    """
    if not task.handle:
        raise no_handle(task)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(_address(task.handle))
            if _peer(connection) != (task.pid, os.geteuid()):
                raise Lost(f"{task}: another process answers at its handle")
            memory = {
                "kind": share.kind,
                "pool": share.pool,
                "address": share.address,
                "size": share.size,
                "mode": share.mode,
            }
            _send(connection, {"call": call, "memory": memory, **details}, share.fds)
            reply, fds = _receive(connection)
        except OSError as error:
            raise Lost(f"{task} does not answer: {error}") from error
        _close(fds)
        try:
            code = IOReturn(reply["code"]) if "code" in reply else None
            address = 0 if code is not None else int(reply["address"])
        except _NONSENSE as error:
            raise Lost(f"{task} answers what is no answer: {error!r}") from error
        if code is not None:
            raise IOReturnError(f"{task}: {reply.get('reason')}", code=code)
        return Remote(connection, address)
    except BaseException:
        connection.close()
        raise


Make = Callable[[str, Share, dict[str, Any], Task], Placed]


class TaskPort:
    """Lets other processes of this user make buffers and mappings in this one.

    ``handle`` is the text to hand over. `receive` returns what was made here. A thread answers;
    `close`, or the end of the ``with``, ends it and unmaps what was not received.
    """

    def __init__(self) -> None:
        from .adopted import place

        self._place: Make = place
        self._pid = os.getpid()
        self.handle = f"dma-rehearsal-task-{secrets.token_hex(8)}:{self._pid}"
        self._made: queue.SimpleQueue[Placed] = queue.SimpleQueue()
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._listener.bind(_address(self.handle))
        self._listener.listen(16)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="task port", daemon=True)
        self._thread.start()

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next buffer that another process made here; it is this process's to release.

        `Lost` after ``timeout`` seconds.
        """
        try:
            return self._made.get(timeout=timeout)
        except queue.Empty:
            raise Lost(f"no buffer came within {timeout} s") from None

    def close(self) -> None:
        """Answer no more; unmap what was mapped here for others, release what was not received."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        self._stop.close()
        self._thread.join()
        self._listener.close()
        while True:
            try:
                self._made.get_nowait().withdraw()
            except queue.Empty:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.enter_context(self._stopped)
            selector.register(self._stopped, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            mapped: dict[socket.socket, Placed] = {}
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stopped:
                        for connection, placed in mapped.items():
                            connection.close()
                            placed.withdraw()
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector, mapped)
                        continue
                    # Whatever comes on it, or its end: the asker is done with the mapping.
                    connection = key.fileobj  # type: ignore[assignment]
                    selector.unregister(connection)
                    connection.close()
                    mapped.pop(connection).withdraw()

    def _accept(
        self, selector: selectors.BaseSelector, mapped: dict[socket.socket, Placed]
    ) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.settimeout(_PATIENCE)
        try:
            placed = self._answer(connection)
        except (OSError, Lost):
            connection.close()
            return
        if placed is None:
            connection.close()
        else:
            selector.register(connection, selectors.EVENT_READ)
            mapped[connection] = placed

    def _answer(self, connection: socket.socket) -> Placed | None:
        """Do one call; return what lasts as long as its connection."""
        pid, uid = _peer(connection)
        if uid != os.geteuid():
            raise Lost(f"process {pid} is user {uid}'s")
        message, fds = _receive(connection)
        try:
            placed = self._do(message, fds, Task(pid))
        except IOReturnError as error:
            _send(connection, {"code": error.code, "reason": error.reason})
            return None
        try:
            _send(connection, {"address": placed.address})
        except OSError:
            placed.withdraw()
            raise
        if message["call"] == "map":
            return placed
        self._made.put(placed)
        return None

    def _do(self, message: dict[str, Any], fds: list[int], asker: Task) -> Placed:
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
        except _NONSENSE as error:
            _close(fds)
            raise _no_call(error) from error
        try:
            return self._place(call, share, message, asker)  # the descriptors are its own
        except _NONSENSE as error:
            raise _no_call(error) from error


def _no_call(error: Exception) -> IOReturnError:
    return IOReturnError(f"a call that is none: {error!r}", code=IOReturn.kIOReturnBadArgument)
