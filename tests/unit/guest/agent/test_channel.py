# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the channel works with the host's, and notices damage."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.layout.result_frames import HEADER, MAGIC, MAX_PAYLOAD, PORT_NAME
from dma_rehearsal.guest.agent import channel as guest
from dma_rehearsal.host_harness.machine import channel as host
from tests.generated import examples


@pytest.fixture
def ends() -> Iterator[tuple[guest.Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield guest.Channel(ours.fileno()), theirs


def frame(payload: bytes, sequence: int = 0, **changes: int) -> bytes:
    fields = {"length": len(payload), "crc": zlib.crc32(payload), **changes}
    return HEADER.pack(MAGIC, fields["length"], sequence, fields["crc"]) + payload


HELLO = json.dumps({"type": "hello"}).encode()


def test_messages_go_both_ways(ends: tuple[guest.Channel, socket.socket]) -> None:
    ours, peer = ends
    theirs = host.Channel(peer)
    for number in range(3):
        message = {"type": "log", "text": "ä\ud800\n", "number": number}
        ours.send(message)
        theirs.pull()
        assert theirs.take() == message
        theirs.send({"type": "run", "number": number})
        assert ours.receive() == {"type": "run", "number": number}


def test_long_message_is_written_whole(ends: tuple[guest.Channel, socket.socket]) -> None:
    ours, peer = ends
    message = {"type": "log", "text": "x" * 3_000_000}
    writer = threading.Thread(target=ours.send, args=[message])
    writer.start()
    theirs = host.Channel(peer)
    taken = None
    while taken is None:
        theirs.pull()
        taken = theirs.take()
    writer.join()
    assert taken == message


def test_what_json_cannot_say_goes_as_its_repr(ends: tuple[guest.Channel, socket.socket]) -> None:
    ours, peer = ends
    ours.send({"type": "report", "value": {1, 2}})
    theirs = host.Channel(peer)
    theirs.pull()
    assert theirs.take() == {"type": "report", "value": "{1, 2}"}


def test_too_long_a_message_is_refused(ends: tuple[guest.Channel, socket.socket]) -> None:
    with pytest.raises(guest.ChannelError, match="above"):
        ends[0].send({"type": "log", "text": "x" * MAX_PAYLOAD})


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
        (frame(b'{"type": 1}'), "no type"),
    ],
)
def test_damage_is_named(
    ends: tuple[guest.Channel, socket.socket], data: bytes, words: str
) -> None:
    ends[1].sendall(data)
    with pytest.raises(guest.ChannelCorrupt, match=words):
        ends[0].receive()


@pytest.mark.parametrize("part", [0, 3, 16, 20])
def test_end_of_stream_is_noticed(ends: tuple[guest.Channel, socket.socket], part: int) -> None:
    ends[1].sendall(frame(HELLO)[:part])
    ends[1].close()
    with pytest.raises(guest.ChannelClosed, match="closed"):
        ends[0].receive()


def test_port_that_is_gone_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(guest.ChannelClosed, match="writing"):
            guest.Channel(writer).send({"type": "log"})
        with pytest.raises(guest.ChannelClosed, match="reading"):
            guest.Channel(writer).receive()
    finally:
        os.close(writer)


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise(data: bytes) -> None:
    """For any bytes the channel gives a message or raises ChannelError."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(data)
        channel = guest.Channel(ours.fileno())
        with contextlib.suppress(guest.ChannelError):
            while True:
                assert isinstance(channel.receive()["type"], str)


def test_port_is_found_by_its_name(tmp_path: Path) -> None:
    ports = tmp_path
    for port, name in (("vport0p1", "com.example"), ("vport1p1", PORT_NAME)):
        (ports / port).mkdir()
        (ports / port / "name").write_text(f"{name}\n")
    assert guest.find_port(ports) == Path("/dev/vport1p1")
    with pytest.raises(guest.ChannelError, match="no virtio-serial port"):
        guest.find_port(ports / "none")
