# SPDX-License-Identifier: Apache-2.0
"""Frames of the result channel: encoded and decoded by one module, which checks each field."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.device.layout.result_frames import (
    HEADER,
    MAGIC,
    MAX_PAYLOAD,
    FrameError,
    Header,
    Message,
    MessageTooLong,
    encode,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
MESSAGES = st.builds(lambda kind, value: {"type": kind, "value": value}, st.text(), VALUES)


@given(MESSAGES, st.integers(0, 2**32 - 1))
def test_message_returns_from_its_frame(message: Message, sequence: int) -> None:
    frame = encode(message, sequence)
    header = Header.parse(frame, sequence)
    assert header.length == len(frame) - HEADER.size
    assert header.decode(frame[HEADER.size :]) == message


def test_longest_payload_is_sent_and_a_longer_one_is_refused() -> None:
    room = MAX_PAYLOAD - len(b'{"type": ""}')
    assert Header.parse(encode({"type": "x" * room}, 0), 0).length == MAX_PAYLOAD
    with pytest.raises(MessageTooLong, match=f"above {MAX_PAYLOAD}"):
        encode({"type": "x" * (room + 1)}, 0)


def test_value_without_a_json_form_is_converted_or_refused() -> None:
    message = {"type": "report", "value": {1}}
    frame = encode(message, 0, default=repr)
    assert Header.parse(frame, 0).decode(frame[HEADER.size :]) == {"type": "report", "value": "{1}"}
    with pytest.raises(TypeError):
        encode(message, 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((b"XXXX", 2, 7, 0), "starts with b'XXXX'"),
        ((MAGIC, MAX_PAYLOAD + 1, 7, 0), "announces"),
        ((MAGIC, 2, 8, 0), "frame 7 is missing: got frame 8"),
    ],
)
def test_wrong_header_is_refused(fields: tuple[bytes, int, int, int], words: str) -> None:
    with pytest.raises(FrameError, match=words):
        Header.parse(HEADER.pack(*fields), 7)


@pytest.mark.parametrize(
    ("payload", "words"),
    [(b"{", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "no type"), (b"{}", "no type")],
)
def test_wrong_payload_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        Header(len(payload), 7, zlib.crc32(payload)).decode(payload)
    with pytest.raises(FrameError, match="checksum"):
        Header(len(payload), 7, zlib.crc32(payload) ^ 1).decode(payload)
