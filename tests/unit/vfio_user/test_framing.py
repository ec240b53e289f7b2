# SPDX-License-Identifier: Apache-2.0
"""Bytes and descriptors to messages: each message has its own descriptors, however it is cut."""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import Iterator

import pytest

from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.framing import Framer, Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, MAX_FDS, Command, Header
from dma_rehearsal.device.vfio_user.stream import DONT_WAIT, receive

SIZE = HEADER_SIZE + 32
CUTS = (1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, SIZE - 1)
Piece = tuple[bytes, list[int]]


def message(identity: int) -> bytes:
    return Header(identity, Command.DMA_MAP, SIZE, 0, 0).pack() + bytes(SIZE - HEADER_SIZE)


def file_of(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Descriptors of two files, which stay open."""
    made = [os.memfd_create(name) for name in ("first", "second")]
    yield made
    close_all(made)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def send(stream: socket.socket, pieces: list[Piece]) -> None:
    for data, descriptors in pieces:
        rights = array.array("i", descriptors)
        stream.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])


def drained(stream: socket.socket, framer: Framer) -> list[Message]:
    """Return the messages that are complete by what was sent."""
    found: list[Message] = []
    while True:
        try:
            found += framer.feed(*receive(stream, DONT_WAIT))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("with_the_header", [True, False])
@pytest.mark.parametrize(("first", "second"), [*itertools.product(CUTS, CUTS)])
def test_descriptors_of_pipelined_messages_in_pieces(
    pair: tuple[socket.socket, socket.socket],
    files: list[int],
    first: int,
    second: int,
    with_the_header: bool,
) -> None:
    """A descriptor may come with either piece, and the reader wake up behind any of them."""
    ours, theirs = pair
    pieces: list[Piece] = []
    for identity, cut in enumerate((first, second)):
        own = [files[identity]]
        front, back = (own, []) if with_the_header else ([], own)
        whole = message(identity)
        pieces += [(whole[:cut], front), (whole[cut:], back)]
    for read_behind in range(len(pieces) + 1):
        framer = Framer()
        send(theirs, pieces[:read_behind])
        found = drained(ours, framer)
        send(theirs, pieces[read_behind:])
        found += drained(ours, framer)
        assert [each.header.message_id for each in found] == [0, 1]
        for each, file in zip(found, files, strict=True):
            assert [file_of(one) for one in each.descriptors] == [file_of(file)]
            close_all(each.descriptors)
        framer.close()


def test_message_without_descriptors_before_one_with(
    pair: tuple[socket.socket, socket.socket], files: list[int]
) -> None:
    ours, theirs = pair
    send(theirs, [(message(0), []), (message(1), files), (message(2), [])])
    found = drained(ours, Framer())
    assert [len(each.descriptors) for each in found] == [0, 2, 0]
    close_all(found[1].descriptors)


@pytest.mark.parametrize("count", [MAX_FDS, MAX_FDS + 1])
def test_descriptors_of_one_message_are_counted_over_its_pieces(
    files: list[int], count: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
    framer, whole = Framer(), message(0)
    assert not framer.feed(whole[:20], [os.dup(files[0])])
    rest = [os.dup(files[0]) for _ in range(count - 1)]
    if count > MAX_FDS:
        with pytest.raises(RemoteProtocolError, match="too many descriptors"):
            framer.feed(whole[20:], rest)
    else:
        (found,) = framer.feed(whole[20:], rest)
        assert len(found.descriptors) == count
        close_all(found.descriptors)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_each_message_may_have_as_many(files: list[int]) -> None:
    """The bytes that one message waits for do not count for the next."""
    framer = Framer()
    framer.feed(message(0)[:20], [os.dup(files[0]) for _ in range(MAX_FDS)])
    found = framer.feed(message(0)[20:] + message(1), [os.dup(files[1]) for _ in range(MAX_FDS)])
    assert [len(each.descriptors) for each in found] == [MAX_FDS, MAX_FDS]
    for each in found:
        close_all(each.descriptors)


def test_impossible_size_closes_what_came_with_it(files: list[int]) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    framer = Framer()
    framer.feed(message(0)[:20], [os.dup(files[0])])
    wrong = Header(1, Command.DMA_MAP, 3, 0, 0).pack()
    with pytest.raises(RemoteProtocolError, match="a message of 3 bytes"):
        framer.feed(message(0)[20:] + wrong, [os.dup(files[1])])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
