"""The guest's end of the result channel: framed, numbered and checksummed JSON over a port.

The host's end is ``host_harness/channel.py``; a test holds both against each other.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<4sIII")
MAGIC = b"DMR1"
MAX_PAYLOAD = 16 << 20
PROTOCOL = 1
PORT_NAME = "org.dma-rehearsal.results"

Message = dict[str, Any]


class ChannelError(Exception):
    """The channel is gone, or what came over it cannot be trusted."""


class Channel:
    """Blocking messages over a descriptor, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = 0
        self._received = 0

    def send(self, message: Message) -> None:
        """Send one message. ChannelError when it is too long; OSError when the port is gone."""
        payload = json.dumps(message).encode()
        if len(payload) > MAX_PAYLOAD:
            raise ChannelError(f"a message of {len(payload)} bytes, above {MAX_PAYLOAD}")
        data = memoryview(
            HEADER.pack(MAGIC, len(payload), self._sent, zlib.crc32(payload)) + payload
        )
        while data:
            data = data[os.write(self._descriptor, data) :]
        self._sent += 1

    def receive(self) -> Message:
        """Return the next message. ChannelError names what is wrong with its frame."""
        magic, length, sequence, checksum = HEADER.unpack(self._exactly(HEADER.size))
        if magic != MAGIC or length > MAX_PAYLOAD or sequence != self._received:
            raise ChannelError(
                f"frame {self._received}: magic {magic!r}, {length} bytes, number {sequence}"
            )
        payload = self._exactly(length)
        if zlib.crc32(payload) != checksum:
            raise ChannelError(f"frame {sequence}: wrong checksum")
        self._received += 1
        message = json.loads(payload)
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ChannelError(f"frame {sequence}: no object with a type")
        return message

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            part = os.read(self._descriptor, min(length, 1 << 16))
            if not part:
                raise ChannelError("the host closed the channel")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def find_port(ports: Path = Path("/sys/class/virtio-ports")) -> Path:
    """Return the device of the virtio-serial port PORT_NAME. ChannelError when there is none."""
    for port in sorted(ports.glob("*")):
        if (port / "name").read_text().strip() == PORT_NAME:
            return Path("/dev") / port.name
    raise ChannelError(f"there is no virtio-serial port named {PORT_NAME} in {ports}")
