# SPDX-License-Identifier: Apache-2.0
"""The end of a connection: what a client had sent is read, so it sees an end and no reset."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import Reg
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import server as server_module
from dma_rehearsal.device.vfio_user.messages import Command, RegionAccess
from dma_rehearsal.device.vfio_user.server import VfioUserServer
from dma_rehearsal.device.vfio_user.stream import discard
from tests.unit.vfio_user.client import RawClient

PATIENCE_S = 10
MANY = 20  # messages that a socket has room for


class Slow(Exerciser):
    """Answers a read of DMA_LEN when it may."""

    def __init__(self) -> None:
        super().__init__(Trace())
        self.reads, self.may = threading.Event(), threading.Event()

    def read_dma_len(self) -> int:
        self.reads.set()
        assert self.may.wait(PATIENCE_S)
        return 7


@contextmanager
def asked(path: Path, model: Slow, *more: RegionAccess) -> Iterator[RawClient]:
    """Have a server that is told to end while it answers, and a client that has asked on.

    At the end of the ``with`` the server must end.
    """
    served = VfioUserServer(path, model)
    served.listen()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        with RawClient(path, decode=False) as client:
            model.config.write(4, b"\2")
            client.send(Command.REGION_READ, RegionAccess(Reg.DMA_LEN, 0, 4).pack())
            assert model.reads.wait(PATIENCE_S)
            for access in more:
                client.send(Command.REGION_READ, access.pack())
            served.close()
            model.may.set()
            yield client
    finally:
        model.may.set()
        served.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("timed", [False, True])
def test_what_was_sent_is_answered_when_serving_ends(tmp_path: Path, timed: bool) -> None:
    """With a timer the server waits in another place."""
    model = Slow()
    if timed:
        model.timers.after(3600.0, lambda: None)
    with asked(tmp_path / "socket", model, *[RegionAccess(Reg.DMA_LEN, 0, 4)] * MANY) as client:
        replies = [client.receive() for _ in range(1 + MANY)]
        assert client.socket.recv(1) == b"", "an end, and no reset"
    assert {each.payload[-4:] for each in replies} == {struct.pack("<I", 7)}
    assert [each.header.message_id for each in replies] == [*range(2, 3 + MANY)]


def test_a_client_that_takes_no_answers_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FINISH_S", 0.05)
    with asked(tmp_path / "socket", Slow(), *[RegionAccess(0, 1, 1 << 16)] * MANY):
        pass


def test_whoever_is_thrown_out_sees_an_end(server: Path, memory: int) -> None:
    with RawClient(server) as client:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
        client.send(Command.DMA_MAP, bytes(1 << 16), size=3, descriptors=[memory])
        with contextlib.suppress(BrokenPipeError):  # it may be out already
            client.send_raw(bytes(64), [memory, memory])
        assert client.socket.recv(1) == b""
    with RawClient(server) as client:
        client.read32(0, Reg.DMA_LEN)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_nothing_is_left_of_a_stream_or_of_its_descriptors(memory: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        with ours:
            for _ in range(3):
                socket.send_fds(theirs, [bytes(1000)], [memory] * 40)  # more than a message may
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            discard(ours)
            assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
            with pytest.raises(BrokenPipeError):
                theirs.send(b"more")
        assert theirs.recv(1) == b""
