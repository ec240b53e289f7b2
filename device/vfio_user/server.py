# SPDX-License-Identifier: Apache-2.0
"""A vfio-user server on a Unix socket, one client at a time.

One thread does everything for a device, its timers and posted work included. It never waits for a
single reply, so a client is served while it owes an answer itself: it waits in ``poll`` for
whatever comes first. Another thread of the model's wakes it when it sets a timer or posts work.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import secrets
import select
import signal
import socket
import threading
import time
from collections import deque
from pathlib import Path

from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.connection import Connection, Outgoing
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.framing import Framer, Message
from dma_rehearsal.device.vfio_user.model import DeviceModel
from dma_rehearsal.device.vfio_user.stream import DONT_WAIT, discard, receive
from dma_rehearsal.device.vfio_user.turn import Action, Turn
from dma_rehearsal.device.vfio_user.waiter import Waiter

_log = logging.getLogger(__name__)
# Plain ints: an operation on an IntFlag costs as much as ten of them.
_POLL_IN, _POLL_OUT = int(select.POLLIN), int(select.POLLOUT)
# A client that takes nothing for so long, while something is to be sent, is closed.
SEND_TIMEOUT_S = 5.0
# So long what a client had sent is answered when serving ends.
FINISH_S = 1.0
# A vCPU that reads one register often reads the next: so long the server looks for a message before
# it sleeps. To be woken takes longer than to serve the read. Without a free CPU it would be in the
# way: half of what a device process did beside two busy guests on two CPUs was to look.
SPIN_S = 50e-6
_SPINS = len(os.sched_getaffinity(0)) > 1
# A client that never pauses leaves the descriptors that a model watches a turn after so many
# messages.
_LOOK_EVERY = 16
# After an accept that failed, such as for want of descriptors.
_ACCEPT_PAUSE_S = 0.1


class VfioUserServer:
    """Serves ``model`` on the socket ``path``: one client, and when it is gone the next.

    ``turn`` is what its thread is at. With ``spin`` it looks for the next message for SPIN_S before
    it sleeps, if this process may use two CPUs; without, it sleeps at once.
    """

    def __init__(self, path: Path, model: DeviceModel, *, spin: bool = True) -> None:
        self.path = path
        self._spin = spin and _SPINS
        self.turn = Turn()
        self._model = model
        self._lock = threading.Lock()  # over the six below
        self._named = False
        self._listener: socket.socket | None = None
        self._stop = self._woken = -1  # eventfds
        self._serving = False
        self._client: socket.socket | None = None

    def listen(self) -> None:
        """Bind and listen. OSError when the path cannot be bound (in use, too long, no folder).

        The name is there once a client can connect, not before.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # As long as the name itself, so that one that is too long for an address is noticed.
        length = len(self.path.name)
        hidden = self.path.with_name(
            f".{secrets.token_hex(8)}".ljust(length, "_")[: max(length, 8)]
        )
        try:
            listener.bind(str(hidden))
            try:
                listener.listen(1)
                self.path.hardlink_to(hidden)
            finally:
                hidden.unlink()
        except FileExistsError as error:
            listener.close()
            raise OSError(
                errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(self.path)
            ) from error
        except OSError:
            listener.close()
            raise
        with self._lock:
            self._listener = listener
            self._named = True
            self._stop = os.eventfd(0, os.EFD_CLOEXEC)
            self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def serve_forever(self) -> None:
        """Serve one client after the other until ``close``; nothing when it was closed before."""
        with self._lock:
            listener = self._listener
            if listener is None:
                return
            self._serving = True
        self.turn.thread = self._model.posted.thread = threading.get_ident()
        try:
            self._model.timers.wake = self._model.posted.wake = self._wake
            waiter = Waiter(listener, self._stop, self._woken, self._model, self.turn)
            while waiter.wait(_POLL_IN):
                try:
                    client, _ = listener.accept()
                except OSError as error:
                    _log.warning("%s: no client: %s", self.path.name, error)
                    if not waiter.pause(_ACCEPT_PAUSE_S):
                        break
                    continue
                with client:
                    if not self._serves(client):
                        discard(client)
                        break
                    waiting = Waiter(client, self._stop, self._woken, self._model, self.turn)
                    session = _Session(client, waiting, self._model, self.path.name, self.turn)
                    session.spin = self._spin
                    session.run()
                    self._serves(None)
        finally:
            self._model.posted.thread = None
            with self._lock:
                self._serving = False
                self._release()

    def _serves(self, client: socket.socket | None) -> bool:
        """Note whose turn it is; return False when serving has ended."""
        with self._lock:
            self._client = client
            return self._named

    def _wake(self) -> None:
        """Have the thread that serves look at its timers and its work; from any other."""
        if threading.get_ident() == self.turn.thread:
            return
        with self._lock:
            if self._serving:
                os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Stop serving, from any thread, and remove the socket's name. Again is nothing."""
        with self._lock:
            if self._named:
                self._named = False
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
            if self._listener is None:
                return
            if self._serving:
                os.eventfd_write(self._stop, 1)
                if self._client is not None:
                    # As if the client had gone. Messages that it had sent can still be read, and
                    # answered.
                    with contextlib.suppress(OSError):
                        self._client.shutdown(socket.SHUT_RD)
            else:
                self._release()

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            os.close(self._stop)
            os.close(self._woken)


def serve(path: str | Path, model: DeviceModel) -> None:
    """Serve one device until SIGINT or SIGTERM: the main function of a program that is just that.

    OSError when the path cannot be bound; ValueError when called from another than the main thread.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = VfioUserServer(Path(path), model)
    server.listen()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        server.close()


class _Session:
    """One client's socket. Messages are handled one by one, each reply sent before the next."""

    def __init__(
        self, stream: socket.socket, waiter: Waiter, model: DeviceModel, name: str, turn: Turn
    ) -> None:
        self._stream, self._model, self._name, self._turn = stream, model, name, turn
        self._work = model.posted
        self._waiter = waiter
        self._connection = Connection(model, turn=turn)
        self._framer = Framer()
        self._inbox: deque[Message] = deque()
        self._unsent = b""
        self._send_deadline: float | None = None
        self._unpolled = 0  # messages since the last look at what the model watches
        self.spin = False  # see `_next`

    def run(self) -> None:
        """Serve until the client is gone, is thrown out, or serving ends."""
        _log.info("%s: client connected", self._name)
        self._turn.stream, self._turn.inbox = self._stream, self._inbox
        try:
            while self._step():
                pass
            self._finish()
        except RemoteProtocolError as error:
            _log.warning("%s: connection closed: %s", self._name, error)
        except OSError as error:
            _log.info("%s: %s", self._name, error)
        finally:
            for message in self._inbox:
                close_all(message.descriptors)
            self._framer.close()
            self._turn.stream, self._turn.inbox = None, ()
            self._turn.work = Action("the end of the connection")
            self._connection.close()
            self._turn.work = None
            discard(self._stream)
            _log.info("%s: client gone", self._name)

    def _finish(self) -> None:
        """Answer what a client had sent when serving ended, as long as it takes the answers."""
        end = time.monotonic() + FINISH_S
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RD)
        poll = select.poll()
        poll.register(self._stream, select.POLLOUT)
        while (left := end - time.monotonic()) > 0:
            if (self._unsent or self._connection.outbox) and not self._flush():
                poll.poll(left * 1000)
            elif self._inbox:
                self._handle(self._inbox.popleft())
            elif not self._receive():
                break

    def _step(self) -> bool:
        """Send, handle a message, or wait. Return whether to go on."""
        connection = self._connection
        # A client that does not take its replies is not read from, so nothing piles up.
        if (self._unsent or connection.outbox) and not self._flush():
            return self._wait(_POLL_OUT)
        if self._work.ready:
            self._work.run(self._turn)
            self._tick()
        if self._unpolled >= _LOOK_EVERY and self._work.watches.table:
            self._unpolled = 0
            serving, _ = self._waiter.once(_POLL_IN, 0.0)
            self._tick()
            if not serving:
                return False
        if not self._inbox:
            if not connection.idle or self._model.timers.next_deadline() is not None:
                return self._wait(_POLL_IN)
            # Nothing else is due; a poll would cost half a message.
            if not self._next():
                return False
            if not self._inbox:
                return True
        self._unpolled += 1
        self._handle(self._inbox.popleft())
        return True

    def _tick(self) -> None:
        """Go on with DMAs, and send what the model asks of the client."""
        self._turn.work = Action("a DMA's end")
        self._connection.tick()
        self._turn.work = None

    def _handle(self, message: Message) -> None:
        turn = self._turn
        turn.access, turn.work = None, message
        self._connection.handle(message)
        turn.work = None

    def _next(self) -> bool:
        """Wait for the client's next bytes; to spin is to begin without sleep.

        Return whether to go on.
        """
        if self.spin:
            look, clock = self._waiter.look, time.perf_counter
            until = clock() + SPIN_S
            while clock() < until:
                if come := look():
                    if come == self._waiter.message:
                        return self._receive()
                    break
        serving, ready = self._waiter.once(_POLL_IN)
        if not self._connection.idle:  # by what another thread woke it for
            self._tick()
        return self._receive() if ready and serving else serving

    def _wait(self, events: int) -> bool:
        """Wait for the socket or a deadline. Return whether to go on."""
        connection, sent = self._connection, events == _POLL_IN
        now = 0.0 if connection.ready and sent else None
        serving, ready = self._waiter.once(
            events, now, connection.next_deadline(), self._send_deadline
        )
        if not serving:
            return False
        self._tick()
        return self._receive() if ready and sent else True

    def _receive(self) -> bool:
        """Take what has come; return False at the end of the stream."""
        try:
            data, descriptors = receive(self._stream, DONT_WAIT)
        except BlockingIOError:
            return True
        if not data:
            return False
        self._inbox.extend(self._framer.feed(data, descriptors))
        return True

    def _flush(self) -> bool:
        """Send what can be sent; return whether that was all.

        RemoteProtocolError (fatal) for a client that took nothing for SEND_TIMEOUT_S.
        """
        outbox = self._connection.outbox
        while self._unsent or outbox:
            descriptors: tuple[int, ...] = ()
            if not self._unsent:
                message: Outgoing = outbox.popleft()
                self._unsent, descriptors = message.data, message.descriptors
            try:
                count = self._send(descriptors)
            except BlockingIOError:
                if descriptors:  # they go with the first byte, later
                    outbox.appendleft(Outgoing(self._unsent, descriptors))
                    self._unsent = b""
                self._check_send_deadline()
                return False
            self._unsent = self._unsent[count:]
            self._send_deadline = None
        return True

    def _send(self, descriptors: tuple[int, ...]) -> int:
        if not descriptors:
            return self._stream.send(self._unsent, DONT_WAIT)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        return self._stream.sendmsg([self._unsent], rights, DONT_WAIT)

    def _check_send_deadline(self) -> None:
        now = time.monotonic()
        if self._send_deadline is None:
            self._send_deadline = now + SEND_TIMEOUT_S
        elif now >= self._send_deadline:
            raise RemoteProtocolError("the client does not take its replies", fatal=True)
