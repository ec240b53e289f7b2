# SPDX-License-Identifier: Apache-2.0
"""Message headers: what cannot be followed closes the connection, the rest is answered."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user.messages import (
    HEADER_SIZE,
    MAX_FDS,
    MAX_MESSAGE,
    Command,
    Flags,
)
from tests.unit.vfio_user.client import RawClient, Refused

INFO = struct.pack("<IIII", 16, 0, 0, 0)


@pytest.mark.parametrize("size", [0, 1, HEADER_SIZE - 1, MAX_MESSAGE + 1, 0xFFFF_FFFF])
def test_impossible_size_closes_the_connection(server: Path, client: RawClient, size: int) -> None:
    client.send(Command.DEVICE_RESET, size=size)
    with pytest.raises(EOFError):
        client.receive()
    client.close()
    with RawClient(server) as following:
        assert following.call(Command.DEVICE_GET_INFO, INFO)


@pytest.mark.parametrize("flags", [2, 0xF, 1 << 6, 1 << 31])
def test_flags_that_are_no_command_are_refused(client: RawClient, flags: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.DEVICE_GET_INFO, INFO, flags=flags)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("command", [0, *(11, 12, 14), *range(19, 24), 0x1234, 0xFFFF])
def test_command_that_no_device_serves(client: RawClient, command: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(command, bytes(32))
    assert refusal.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("command", [0, Command.DEVICE_GET_INFO, Command.REGION_READ])
def test_no_reply_gets_none_even_for_an_error(client: RawClient, command: int) -> None:
    client.send(command, b"", flags=Flags.NO_REPLY)
    assert client.call(Command.DEVICE_GET_INFO, INFO), "the next reply belongs to the next command"


@pytest.mark.parametrize("cut", range(1, HEADER_SIZE + 16))
def test_truncated_message_then_end_of_stream(server: Path, cut: int) -> None:
    """A client that dies within a message leaves a server that serves the next one."""
    with RawClient(server) as client:
        whole = struct.pack("<HHIII", 9, Command.DEVICE_GET_INFO, 32, 0, 0) + INFO
        client.send_raw(whole[:cut])
    with RawClient(server) as following:
        assert following.call(Command.DEVICE_GET_INFO, INFO)


def test_message_in_single_bytes(client: RawClient) -> None:
    whole = struct.pack("<HHIII", 77, Command.DEVICE_GET_INFO, 32, 0, 0) + INFO
    for position in range(len(whole)):
        client.send_raw(whole[position : position + 1])
    assert client.receive().header.message_id == 77


def test_many_messages_in_one_piece_are_answered_in_order(client: RawClient) -> None:
    one = [
        struct.pack("<HHIII", identity, Command.DEVICE_GET_INFO, 32, 0, 0) + INFO
        for identity in range(100, 150)
    ]
    client.send_raw(b"".join(one))
    received = b""
    while len(received) < 50 * 32:
        received += client.socket.recv(1 << 16)
    identities = [
        struct.unpack_from("<H", received, position)[0] for position in range(0, 50 * 32, 32)
    ]
    assert identities == list(range(100, 150))


@pytest.mark.parametrize(
    "command",
    [
        Command.DEVICE_GET_INFO,
        Command.DEVICE_GET_REGION_INFO,
        Command.DEVICE_RESET,
        Command.REGION_READ,
        Command.REGION_WRITE,
        Command.DMA_UNMAP,
    ],
)
def test_descriptors_where_none_belong_are_refused(
    client: RawClient, memory: int, command: Command
) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(command, bytes(32), descriptors=[memory])
    assert refusal.value.errno == errno.EINVAL


def test_more_descriptors_than_a_message_may_carry(client: RawClient, memory: int) -> None:
    client.send(Command.DMA_MAP, bytes(32), descriptors=[memory] * (MAX_FDS + 1))
    with pytest.raises(EOFError):
        client.receive()


def test_second_client_waits_for_the_first(server: Path) -> None:
    with RawClient(server) as first:
        second = RawClient(server, negotiate=False)
        second.socket.settimeout(0.2)
        with pytest.raises(socket.timeout):
            second.version()
        assert first.call(Command.DEVICE_GET_INFO, INFO)
    second.socket.settimeout(10)
    assert second.receive().header.command == Command.VERSION
    second.close()
