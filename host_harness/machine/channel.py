# SPDX-License-Identifier: Apache-2.0
"""The host's end of the result channel; ``device/layout/result_frames.py`` describes its frames.

The guest's end is ``guest/agent/channel.py``. The guest sends all that arrives, so all is checked.
"""

from __future__ import annotations

import socket
from typing import Any

from dma_rehearsal.device.layout.result_frames import HEADER, MAX_PAYLOAD, Header, Message, encode
from dma_rehearsal.host_harness.process.plain_text import printable

_SEND_LIMIT_S = 10


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

        MessageTooLong for a message that the guest would refuse for its size.
        """
        frame = encode(message, self._sent)
        self._sent += 1
        self._stream.settimeout(_SEND_LIMIT_S)
        self._stream.sendall(frame)

    @property
    def position(self) -> tuple[int, int]:
        """The numbers of frames that were sent and received so far, as a saved state keeps them."""
        return self._sent, self._received

    def go_on_from(self, sent: int, received: int) -> None:
        """Number the frames from here on as behind a saved state with this `position`."""
        self._sent, self._received = sent, received

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived that was not taken."""
        return not self._buffer

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

        FrameError tells what is wrong with the frame.
        """
        if len(self._buffer) < HEADER.size:
            return None
        header = Header.parse(self._buffer, self._received)
        end = HEADER.size + header.length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        self._received += 1
        return header.decode(payload)


def cleaned(value: Any) -> Any:
    """Return a message whose texts have no escape sequences or control characters but newlines."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if isinstance(value, list):
        return [cleaned(each) for each in value]
    if isinstance(value, dict):
        return {cleaned(key): cleaned(each) for key, each in value.items()}
    return value
