"""Hostile streams.

Whatever arrives, the server answers with an errno or closes that connection; it raises nothing
else, leaks no descriptor, and serves the next client.
"""

from __future__ import annotations

import os
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from device.endpoints.exerciser import Exerciser
from device.trace import Trace
from device.vfio_user.connection import Connection
from device.vfio_user.errors import RemoteProtocolError
from device.vfio_user.framing import Framer, close_all
from device.vfio_user.messages import HEADER_SIZE, Command, Flags, Header

VERSION = struct.pack("<HHIII", 1, Command.VERSION, 20, 0, 0) + bytes(4)

words = st.one_of(
    st.integers(0, 40),
    st.sampled_from([0, 0xFFF, 0x1000, 0x10000, 1 << 31, (1 << 32) - 1]),
)
payloads = st.one_of(
    st.binary(max_size=64),
    st.lists(words, max_size=12).map(lambda numbers: struct.pack(f"<{len(numbers)}I", *numbers)),
)
messages = st.tuples(
    st.one_of(st.sampled_from(list(Command)), st.integers(0, 0xFFFF)),
    st.one_of(st.sampled_from([0, Flags.NO_REPLY]), st.integers(0, 0xFF)),
    payloads,
    st.integers(0, 3),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(messages, max_size=12))
def test_any_messages(sequence: list[tuple[int, int, bytes, int]]) -> None:
    connection, framer = Connection(Exerciser(Trace())), Framer()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count, no paths
    try:
        for message in framer.feed(VERSION, []):
            connection.handle(message)
        for command, flags, payload, count in sequence:
            data = struct.pack("<HHIII", 7, command, HEADER_SIZE + len(payload), flags, 0) + payload
            descriptors = [os.memfd_create("fuzz") for _ in range(count)]
            for message in framer.feed(data, descriptors):
                reply = connection.handle(message)
                assert bool(reply) != bool(flags & Flags.NO_REPLY)
                if reply:
                    header = Header.unpack(reply)
                    assert header.size == len(reply)
                    assert (header.message_id, header.command) == (7, command)
                    assert bool(header.error) == bool(header.flags & Flags.ERROR)
    finally:
        connection.close()
        framer.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=48), st.integers(0, 3)), max_size=8))
def test_any_bytes(pieces: list[tuple[bytes, int]]) -> None:
    connection, framer = Connection(Exerciser(Trace())), Framer()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    try:
        for data, count in pieces:
            for message in framer.feed(data, [os.memfd_create("fuzz") for _ in range(count)]):
                try:
                    connection.handle(message)
                finally:
                    close_all(message.descriptors)
    except RemoteProtocolError as error:
        # Only what cannot be followed reaches the caller; the rest was answered.
        assert error.fatal  # noqa: PT017
    finally:
        connection.close()
        framer.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
