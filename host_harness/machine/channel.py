# SPDX-License-Identifier: Apache-2.0
"""The result channel: framed, numbered and checksummed JSON over virtio-serial.

A frame is a header (magic, payload length, sequence number, CRC-32 of the payload) and a payload,
one JSON object with a "type". The guest's end is ``guest/agent/channel.py``; a test holds both
against each other. Everything that arrives is the guest's word and is checked.
"""

from __future__ import annotations

import json
import socket
import struct
import zlib
from typing import Any

from dma_rehearsal.host_harness.process.plain_text import printable

HEADER = struct.Struct("<4sIII")
MAGIC = b"DMR1"
MAX_PAYLOAD = 16 << 20
PROTOCOL = 3
_SEND_LIMIT_S = 10

Message = dict[str, Any]


class ChannelBroken(Exception):
    """The stream cannot be trusted any more: bad magic, length, sequence, checksum or JSON."""


class GuestProtocolError(Exception):
    """A message of the guest has contents that cannot be right."""


class Channel:
    """One end of the result channel over a connected stream socket; never blocks on reading."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._received = 0
        self._sent = 0
        self.closed = False

    def fileno(self) -> int:
        """Return the socket's descriptor, for select."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def send(self, message: Message) -> None:
        """Send one message; OSError when the peer is gone or does not read for some seconds.

        ValueError for a message that the other side would refuse for its size.
        """
        payload = json.dumps(message).encode()
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a message of {len(payload)} bytes, above {MAX_PAYLOAD}")
        header = HEADER.pack(MAGIC, len(payload), self._sent, zlib.crc32(payload))
        self._sent += 1
        self._stream.settimeout(_SEND_LIMIT_S)
        self._stream.sendall(header + payload)

    def pull(self) -> None:
        """Take what has arrived into the buffer; sets ``closed`` where the stream has ended and
        nothing had arrived.

        At most a whole frame's size at a time: a guest may send without end.
        """
        self._stream.settimeout(0)
        start = len(self._buffer)
        while len(self._buffer) - start < HEADER.size + MAX_PAYLOAD:
            try:
                data = self._stream.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                # The last data first: a caller that sees `closed` may not look for it.
                self.closed = len(self._buffer) == start
                return
            self._buffer += data

    def take(self) -> Message | None:
        """Return the next whole message, or None until more has arrived.

        Raises ChannelBroken, and says what was wrong with the frame.
        """
        if len(self._buffer) < HEADER.size:
            return None
        magic, length, sequence, checksum = HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            raise ChannelBroken(f"a frame starts with {bytes(magic)!r}, not {MAGIC!r}")
        if length > MAX_PAYLOAD:
            raise ChannelBroken(f"a frame announces {length} bytes, above {MAX_PAYLOAD}")
        if sequence != self._received:
            raise ChannelBroken(f"frame {self._received} is missing: got frame {sequence}")
        if len(self._buffer) < HEADER.size + length:
            return None
        payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        if zlib.crc32(payload) != checksum:
            raise ChannelBroken(f"frame {sequence}: the checksum of its {length} bytes is wrong")
        self._received += 1
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise ChannelBroken(f"frame {sequence} is not JSON: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ChannelBroken(f"frame {sequence} has no type")
        return message


def cleaned(value: Any) -> Any:
    """Return a message whose texts have no escape sequences or control characters but newlines."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(each) for key, each in value.items()}
    return value
