"""The one module that does sockets: a vfio-user server on a Unix socket, one client at a time."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from .connection import Connection
from .errors import RemoteProtocolError
from .framing import Framer, close_all
from .messages import MAX_FDS
from .model import DeviceModel

_log = logging.getLogger(__name__)
_RECEIVE_SIZE = 1 << 16
_ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class VfioUserServer:
    """Serves ``model`` on the socket ``path``: one client, and when it is gone the next."""

    def __init__(self, path: Path, model: DeviceModel) -> None:
        self.path = path
        self._model = model
        self._lock = threading.Lock()  # over the three below
        self._listener: socket.socket | None = None
        self._stop = -1  # an eventfd
        self._serving = False

    def listen(self) -> None:
        """Bind and listen. OSError when the path cannot be bound (in use, too long, no folder)."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self.path))
            listener.listen(1)
        except OSError:
            listener.close()
            raise
        with self._lock:
            self._listener = listener
            self._stop = os.eventfd(0, os.EFD_CLOEXEC)

    def serve_forever(self) -> None:
        """Serve one client after the other until ``close``; nothing when it was closed before."""
        with self._lock:
            listener = self._listener
            if listener is None:
                return
            self._serving = True
        try:
            readable = self._watch(listener)
            while readable():
                client, _ = listener.accept()
                with client:
                    self._serve(client)
        finally:
            with self._lock:
                self._serving = False
                self._release()

    def close(self) -> None:
        """Stop serving, from any thread, and remove the socket's name. Again is nothing."""
        with self._lock:
            if self._listener is None:
                return
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            if self._serving:
                os.eventfd_write(self._stop, 1)
            else:
                self._release()

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            os.close(self._stop)

    def _watch(self, stream: socket.socket) -> Callable[[], bool]:
        """Return what waits until the stream is readable: True then, False to stop serving."""
        poll = select.poll()  # select() has no room for descriptors from 1024 on
        poll.register(stream, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        return lambda: self._stop not in {descriptor for descriptor, _ in poll.poll()}

    def _serve(self, client: socket.socket) -> None:
        connection = Connection(self._model)
        framer = Framer()
        _log.info("%s: client connected", self.path.name)
        readable = self._watch(client)
        try:
            while readable():
                data, descriptors = receive(client)
                if not data:
                    break
                messages = framer.feed(data, descriptors)
                try:
                    for message in messages:
                        reply = connection.handle(message)
                        if reply:
                            client.sendall(reply)
                finally:
                    for message in messages:
                        close_all(message.descriptors)
        except RemoteProtocolError as error:
            _log.warning("%s: connection closed: %s", self.path.name, error)
        except OSError as error:
            _log.info("%s: %s", self.path.name, error)
        finally:
            framer.close()
            connection.close()
            _log.info("%s: client gone", self.path.name)


def receive(stream: socket.socket) -> tuple[bytes, list[int]]:
    """Return what one recvmsg gives: bytes (none at the end of the stream) and descriptors.

    RemoteProtocolError when the kernel had to drop descriptors.
    """
    data, ancillary, flags, _ = stream.recvmsg(
        _RECEIVE_SIZE, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % descriptors.itemsize
            descriptors.frombytes(content[:whole])
    found = list(descriptors)
    if flags & socket.MSG_CTRUNC:
        close_all(found)
        raise RemoteProtocolError("more descriptors than a message may carry", fatal=True)
    return data, found
