# SPDX-License-Identifier: Apache-2.0
"""Receives bytes and descriptors from a client's socket, to the end."""

from __future__ import annotations

import array
import contextlib
import socket

from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError

# Plain ints: an operation on an IntFlag costs as much as ten of them.
DONT_WAIT, _CLOSE_ON_EXEC = int(socket.MSG_DONTWAIT), int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_CTRUNC)
_RECEIVE_SIZE = 1 << 16
# As many descriptors as Linux sends at a time (SCM_MAX_FD of include/net/scm.h), though a message
# may carry fewer: the kernel closes what has no room, and would have this thread wait for it.
_ANCILLARY_SIZE = socket.CMSG_SPACE(253 * array.array("i").itemsize)


def discard(stream: socket.socket) -> None:
    """Read and drop the rest of a client's bytes, so that it sees an end and not ECONNRESET.

    That is what it would see of a stream that is closed with unread data, and QEMU 11.1 aborts.
    """
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RD)  # so there is an end to it
        while True:
            try:
                data, descriptors = receive(stream, DONT_WAIT)
            except RemoteProtocolError:
                continue  # too many descriptors, which are closed
            close_all(descriptors)
            if not data:
                break


def receive(stream: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return what one recvmsg gives: bytes (none at the end of the stream) and descriptors.

    RemoteProtocolError when the kernel had to drop descriptors.
    """
    data, ancillary, received, _ = stream.recvmsg(
        _RECEIVE_SIZE, _ANCILLARY_SIZE, _CLOSE_ON_EXEC | flags
    )
    found = _descriptors(ancillary) if ancillary else []
    if received & _CUT:
        close_all(found)
        raise RemoteProtocolError("more descriptors than a message may carry", fatal=True)
    return data, found


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % found.itemsize
            found.frombytes(content[:whole])
    return list(found)
