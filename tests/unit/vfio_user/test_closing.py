# SPDX-License-Identifier: Apache-2.0
"""Closing what a peer sent: nobody waits for the peer."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user import closing
from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.messages import MAX_FDS, Command
from tests.unit.vfio_user.client import RawClient

LINGER_S = 20
PATIENCE_S = 30
INFO = struct.pack("<IIII", 16, 0, 0, 0)


class Lingering:
    """A connected TCP socket whose last close waits for a peer that does not read."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.socket = socket.create_connection(listener.getsockname())
            self.peer, _ = listener.accept()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.send(bytes(1 << 20))


@pytest.fixture
def make_lingering() -> Iterator[Callable[[], Lingering]]:
    made: list[Lingering] = []

    def make() -> Lingering:
        made.append(Lingering())
        return made[-1]

    yield make
    for each in made:
        each.peer.close()  # which ends the wait
    deadline = time.monotonic() + PATIENCE_S
    while closing._threads:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for each in made:
        each.socket.close()


def test_each_kind_is_closed_when_it_returns() -> None:
    read_end, write_end = os.pipe()
    ours, theirs = socket.socketpair()
    kinds = [os.memfd_create("memory"), os.eventfd(0), read_end, write_end, ours.detach()]
    kinds += [theirs.detach(), os.open("/dev/zero", os.O_RDONLY), os.open("/", os.O_PATH)]
    closed = os.dup(kinds[0])
    os.close(closed)
    descriptors = [*kinds, closed]
    close_all(descriptors)
    assert descriptors == []
    for each in kinds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


def test_socket_that_lingers(make_lingering: Callable[[], Lingering]) -> None:
    lingering, memory = make_lingering().socket.detach(), os.memfd_create("memory")
    started = time.monotonic()
    close_all([lingering, memory])
    assert time.monotonic() - started < LINGER_S / 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)


def test_more_of_them_than_threads(
    make_lingering: Callable[[], Lingering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest waits for its turn, and is closed then."""
    monkeypatch.setattr(closing, "MAX_THREADS", 2)
    monkeypatch.setattr(closing, "PATIENCE_S", 0.01)
    made = [make_lingering().socket.detach() for _ in range(3)]
    close_all([*made, os.open("/dev/null", os.O_RDONLY)])
    assert len(closing._threads) == 2
    assert len(closing._waiting) == 2


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed with those that come later."""

    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    first, second = (os.open("/dev/null", os.O_RDONLY) for _ in range(2))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        close_all([first])
    os.fstat(first)
    assert not closing._threads
    monkeypatch.setattr(closing, "PATIENCE_S", PATIENCE_S)
    close_all([second])
    for each in first, second:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


@pytest.mark.parametrize(
    "command", [Command.DMA_MAP, Command.DEVICE_SET_IRQS, Command.DEVICE_RESET]
)
def test_server_goes_on(
    server: Path, make_lingering: Callable[[], Lingering], command: Command
) -> None:
    """A message with one is refused, and its client served on."""
    payload = {
        Command.DMA_MAP: struct.pack("<IIQQQ", 32, 3, 0, 0, 4096),
        Command.DEVICE_SET_IRQS: struct.pack("<IIIII", 20, 4 | 32, 2, 0, 1),
    }.get(command, b"")
    first, lingering = RawClient(server), make_lingering().socket
    with RawClient(server, negotiate=False) as client:
        client.send(Command.VERSION, bytes(4))
        identity = client.send(command, payload, descriptors=[lingering.fileno()])
        lingering.close()  # the server, which serves the first one, has the last descriptor
        first.close()
        assert client.receive().header.error == 0
        reply = client.receive()
        assert (reply.header.message_id, reply.header.error) == (identity, errno.EINVAL)
        client.call(Command.DEVICE_GET_INFO, INFO)


def test_connection_that_ends_with_them(
    server: Path, memory: int, make_lingering: Callable[[], Lingering]
) -> None:
    """More than a message may carry, which the kernel would close within recvmsg."""
    first, lingering = RawClient(server), make_lingering().socket
    with RawClient(server, negotiate=False) as client:
        client.send(Command.DMA_MAP, descriptors=[*[memory] * MAX_FDS, lingering.fileno()])
        lingering.close()
        first.close()
        with pytest.raises(EOFError):
            client.receive()
    with RawClient(server) as following:
        following.call(Command.DEVICE_GET_INFO, INFO)
