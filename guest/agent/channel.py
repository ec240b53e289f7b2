# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the result channel: framed, numbered and checksummed JSON over a port.

The host's end is ``host_harness/machine/channel.py``; a test holds both against each other.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from dma_rehearsal.guest.session import Message as Message

HEADER = struct.Struct("<4sIII")
MAGIC = b"DMR1"
MAX_PAYLOAD = 16 << 20
PROTOCOL = 3
PORT_NAME = "org.dma-rehearsal.results"


class ChannelError(Exception):
    """Base: something is wrong with the channel, or with what came over it."""


class ChannelClosed(ChannelError):
    """The host is gone, or the port is."""


class ChannelCorrupt(ChannelError):
    """What arrived cannot be trusted: magic, length, sequence, checksum or JSON."""


def frame(message: Message, sequence: int) -> bytes:
    """Return the frame of a message; what JSON has no form for goes as its repr()."""
    payload = json.dumps(message, default=repr).encode()
    if len(payload) > MAX_PAYLOAD:
        raise ChannelError(f"a message of {len(payload)} bytes, above {MAX_PAYLOAD}")
    return HEADER.pack(MAGIC, len(payload), sequence, zlib.crc32(payload)) + payload


class Channel:
    """Blocking messages over a descriptor, which stays the caller's.

    Every error is a `ChannelError`; after one the channel is of no more use. Faults act here:
    ``says`` may change a message or leave it out (None), and ``outgoing`` a frame (no bytes).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sent = 0
        self._received = 0
        self.says: Callable[[Message], Message | None] = lambda message: message
        self.outgoing: Callable[[Message, bytes], bytes] = lambda _message, whole: whole

    @property
    def position(self) -> tuple[int, int]:
        """How many frames were sent and received. Another process that went on sets it."""
        return self._sent, self._received

    @position.setter
    def position(self, frames: tuple[int, int]) -> None:
        self._sent, self._received = frames

    def send(self, *messages: Message) -> None:
        """Send messages, each in a frame of its own, all by one write: each write stops the CPU."""
        frames: list[bytes] = []
        for message in messages:
            if (changed := self.says(message)) is not None:
                frames.append(self.outgoing(changed, frame(changed, self._sent + len(frames))))
        data = memoryview(b"".join(frames))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise ChannelClosed(f"writing to the host failed: {error}") from error
        self._sent += len(frames)

    def receive(self, kind: str | None = None) -> Message:
        """Return the next message; `ChannelError` when it is not of this ``kind``.

        `ChannelCorrupt` names what is wrong with its frame.
        """
        magic, length, sequence, checksum = HEADER.unpack(self._exactly(HEADER.size))
        if magic != MAGIC:
            raise ChannelCorrupt(f"a frame starts with {magic!r}, not {MAGIC!r}")
        if length > MAX_PAYLOAD:
            raise ChannelCorrupt(f"a frame announces {length} bytes, above {MAX_PAYLOAD}")
        if sequence != self._received:
            raise ChannelCorrupt(f"frame {self._received} is missing: got frame {sequence}")
        payload = self._exactly(length)
        if zlib.crc32(payload) != checksum:
            raise ChannelCorrupt(f"frame {sequence}: the checksum of {length} bytes is wrong")
        self._received += 1
        try:
            message = json.loads(payload)
        except ValueError as error:
            raise ChannelCorrupt(f"frame {sequence} is no JSON: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ChannelCorrupt(f"frame {sequence} has no type")
        if kind is not None and message["type"] != kind:
            raise ChannelError(f"the host sent {message['type']} where {kind} was expected")
        return message

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = os.read(self._descriptor, min(length, 1 << 16))
            except OSError as error:
                raise ChannelClosed(f"reading from the host failed: {error}") from error
            if not part:
                raise ChannelClosed("the host closed the channel")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def find_port(ports: Path = Path("/sys/class/virtio-ports")) -> Path:
    """Return the device of the virtio-serial port PORT_NAME. ChannelError when there is none."""
    for name in sorted(ports.glob("*/name")):  # a console's port has no name
        if name.read_text().strip() == PORT_NAME:
            return Path("/dev") / name.parent.name
    raise ChannelError(f"there is no virtio-serial port named {PORT_NAME} in {ports}")
