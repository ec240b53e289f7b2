# SPDX-License-Identifier: Apache-2.0
"""The host's and the guest's ends of the result channel agree, and damage is noticed."""

from __future__ import annotations

import contextlib
import json
import socket
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.layout.result_frames import HEADER, MAGIC, MAX_PAYLOAD, FrameError
from dma_rehearsal.host_harness.machine.channel import Channel
from tests.generated import examples


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def frame(payload: bytes, sequence: int = 0, **changes: int) -> bytes:
    fields = {"length": len(payload), "sequence": sequence, "crc": zlib.crc32(payload), **changes}
    return HEADER.pack(MAGIC, fields["length"], fields["sequence"], fields["crc"]) + payload


HELLO = json.dumps({"type": "hello"}).encode()


def test_message_is_taken_only_when_whole(ends: tuple[Channel, socket.socket]) -> None:
    channel, peer = ends
    data = frame(HELLO)
    for end in range(len(data)):
        peer.send(data[end : end + 1])
        channel.pull()
        message = channel.take()
        assert (message is not None) == (end == len(data) - 1)
    assert message == {"type": "hello"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"XXXX" + frame(HELLO)[4:], "starts with"),
        (frame(HELLO, length=MAX_PAYLOAD + 1), "announces"),
        (frame(HELLO, sequence=1), "frame 0 is missing"),
        (frame(HELLO, crc=1), "checksum"),
        (frame(b"{"), "not JSON"),
        (frame(b"\xff"), "not JSON"),
        (frame(b"[]"), "no type"),
        (frame(b"{}"), "no type"),
    ],
)
def test_damage_is_named(ends: tuple[Channel, socket.socket], data: bytes, words: str) -> None:
    channel, peer = ends
    peer.send(data)
    channel.pull()
    with pytest.raises(FrameError, match=words):
        channel.take()


def test_lost_frame_is_noticed(ends: tuple[Channel, socket.socket]) -> None:
    channel, peer = ends
    peer.send(frame(HELLO, 0) + frame(HELLO, 2))
    channel.pull()
    assert channel.take() == {"type": "hello"}
    with pytest.raises(FrameError, match="frame 1 is missing: got frame 2"):
        channel.take()


def test_end_of_stream_is_noticed(ends: tuple[Channel, socket.socket]) -> None:
    channel, peer = ends
    peer.close()
    channel.pull()
    assert channel.closed


def test_last_words_come_before_the_end(ends: tuple[Channel, socket.socket]) -> None:
    """A peer that is gone when we look has still said them."""
    channel, peer = ends
    peer.send(frame(HELLO))
    peer.close()
    channel.pull()
    assert not channel.closed
    assert channel.take() == {"type": "hello"}
    channel.pull()
    assert channel.closed


def test_all_that_has_arrived_is_taken_at_once(ends: tuple[Channel, socket.socket]) -> None:
    channel, peer = ends
    message = {"type": "report", "data": "x" * 150_000}
    peer.sendall(frame(json.dumps(message).encode()))
    channel.pull()
    assert channel.take() == message


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise(data: bytes) -> None:
    """For any bytes the channel waits for more, gives a message or raises FrameError."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        theirs.send(data or b"D")
        channel.pull()
        with contextlib.suppress(FrameError):
            message = channel.take()
            assert message is None or isinstance(message["type"], str)
