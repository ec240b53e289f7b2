# SPDX-License-Identifier: Apache-2.0
"""The guest's end of the result channel; ``device/layout/result_frames.py`` describes its frames.

The host's end is ``host_harness/machine/channel.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dma_rehearsal.device.layout.result_frames import (
    HEADER,
    PORT_NAME,
    FrameError,
    Header,
    Message,
    MessageTooLong,
    encode,
)


class ChannelError(Exception):
    """Base of errors of the channel, and of the messages that came over it."""


class ChannelClosed(ChannelError):
    """The host has closed the channel, or the port is gone."""


class ChannelCorrupt(ChannelError):
    """A frame that cannot be trusted: wrong magic, length, sequence, checksum or JSON."""


def frame(message: Message, sequence: int) -> bytes:
    """Return the frame of a message; a value that JSON has no form for goes as its repr()."""
    try:
        return encode(message, sequence, default=repr)
    except MessageTooLong as error:
        raise ChannelError(str(error)) from error


class Channel:
    """Blocking messages over a descriptor, which stays the caller's.

    Every error is a `ChannelError`; after one, do not use the channel again. Faults act here:
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
        """The numbers of frames sent and received. Set it when another process has gone on."""
        return self._sent, self._received

    @position.setter
    def position(self, frames: tuple[int, int]) -> None:
        self._sent, self._received = frames

    def send(self, *messages: Message) -> None:
        """Send messages, each in a frame of its own, by one write: each write stops the CPU."""
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
        try:
            header = Header.parse(self._exactly(HEADER.size), self._received)
            message = header.decode(self._exactly(header.length))
        except FrameError as error:
            raise ChannelCorrupt(str(error)) from error
        self._received += 1
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
    """Return the device of the virtio-serial port PORT_NAME. ChannelError without one."""
    for name in sorted(ports.glob("*/name")):  # a console's port has no name
        if name.read_text().strip() == PORT_NAME:
            return Path("/dev") / name.parent.name
    raise ChannelError(f"there is no virtio-serial port named {PORT_NAME} in {ports}")
