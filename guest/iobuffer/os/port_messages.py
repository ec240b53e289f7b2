# SPDX-License-Identifier: Apache-2.0
"""Messages between a task's port and its askers: one datagram of a Unix socket each.

A message is a JSON object, with the descriptors of the memory beside it. The first one on a
connection is a call (`remote.request`); each later one has a ``number``, which its answer repeats.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
import weakref
from collections.abc import Iterable
from typing import Any, Final

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn, IOReturnError

PATIENCE: Final = 5.0  # seconds that either side waits for the other
_MESSAGE_MAX: Final = 1 << 14
_FDS_MAX: Final = 4
_REASON_MAX: Final = 2000  # characters
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_CLOEXEC: Final = 0x40000000  # MSG_CMSG_CLOEXEC: recvmsg(2)
# Raised where a malformed number, name or shape is looked at.
NONSENSE: Final = (KeyError, TypeError, ValueError, OverflowError)

_sockets: Final[weakref.WeakSet[socket.socket]] = weakref.WeakSet()


class Lost(IODeviceError):
    """The other task does not answer, or its answer is malformed."""

    default_code = IOReturn.kIOReturnNotAttached


class Ended(Lost):
    """The other end has closed the connection: it has let go, or its process has ended."""


def open_socket(flags: int = 0) -> socket.socket:
    """Return a socket that no process has but this one: an end shows at once.

    A forked child closes its copy. ``flags`` beside SOCK_SEQPACKET.
    """
    return own(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | flags))


def own(connection: socket.socket) -> socket.socket:
    """Keep a socket from the children that this process forks from now on; return it."""
    _sockets.add(connection)
    return connection


def address_of(handle: str) -> str:
    """Return the abstract address of a task's port."""
    return f"\0{handle}"


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the other end's process id and user."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def send(connection: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one message; OSError as sendmsg(2)."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    connection.sendmsg([json.dumps(message).encode()], rights)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return one message and the descriptors with it, which are the caller's to close.

    `Ended` when the other end is closed, `Lost` for a malformed message; OSError as recvmsg(2).
    """
    try:
        data, rights, _, _ = connection.recvmsg(
            _MESSAGE_MAX,
            socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize),
            _CLOEXEC,
        )
    except ConnectionError as error:
        raise Ended(f"the connection ended: {error}") from error
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
    close_all(fds)
    if not data:
        raise Ended("the connection ended")
    raise Lost(f"a malformed message of {len(data)} bytes")


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody else knows yet. Once: their numbers are used again."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _after_fork_in_child() -> None:
    """Connections are the parent's: while a child had them, its end would not show."""
    for each in list(_sockets):
        each.close()
    _sockets.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def error_reply(error: Exception) -> dict[str, Any]:
    """Return the reply that makes an asker raise ``error``; kIOReturnError for other exceptions."""
    if isinstance(error, IOReturnError):
        return {"code": error.code, "reason": error.reason[:_REASON_MAX]}
    reason = f"{type(error).__name__}: {error}"
    return {"code": IOReturn.kIOReturnError, "reason": reason[:_REASON_MAX]}
