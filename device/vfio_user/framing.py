# SPDX-License-Identifier: Apache-2.0
"""Cuts the byte stream into messages; shared by the server and by the test client."""

from __future__ import annotations

from dataclasses import dataclass, field

from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, MAX_FDS, MAX_MESSAGE, Header

_HEADER = Header.STRUCT


@dataclass(slots=True)
class Message:
    """One whole message. To keep a descriptor, take it out of ``descriptors``."""

    header: Header
    payload: bytes
    descriptors: list[int] = field(default_factory=list)


class Framer:
    """Takes what a recvmsg gave and returns whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: list[int] = []  # of the message whose beginning is in the buffer

    def feed(self, data: bytes, descriptors: list[int]) -> list[Message]:
        """Return the messages that ``data`` completes.

        The descriptors of a recvmsg belong to the last message that it brought a part of: Linux
        stops reading a stream behind bytes that carry descriptors. RemoteProtocolError (fatal) for
        a size that no message can have, or too many descriptors for one; what is held is closed
        first.
        """
        if len(data) >= HEADER_SIZE and not (self._buffer or descriptors or self._descriptors):
            header = Header(*_HEADER.unpack_from(data))
            if header.size == len(data) <= MAX_MESSAGE:  # most of the time it is just one message
                return [Message(header, data[HEADER_SIZE:], [])]
        # Only what is cut is put together.
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        messages: list[Message] = []
        start, length = 0, len(buffer)
        while length - start >= HEADER_SIZE:
            header = Header(*_HEADER.unpack_from(buffer, start))
            if not HEADER_SIZE <= header.size <= MAX_MESSAGE:
                close_all(descriptors)
                self.close()
                raise RemoteProtocolError(f"a message of {header.size} bytes", fatal=True)
            end = start + header.size
            if length < end:
                break
            messages.append(Message(header, bytes(buffer[start + HEADER_SIZE : end])))
            start = end
        if buffer is self._buffer:
            del self._buffer[:start]
        elif start < length:
            self._buffer += data[start:]
        self._hand_out(messages, descriptors, whole=start == length)
        return messages

    def _hand_out(self, messages: list[Message], descriptors: list[int], *, whole: bool) -> None:
        """Give each message its descriptors; ``whole``: nothing follows the last of them."""
        if messages:
            messages[0].descriptors, self._descriptors = self._descriptors, []
        last = messages[-1].descriptors if messages and whole else self._descriptors
        last += descriptors
        if len(last) > MAX_FDS:
            for message in messages:
                close_all(message.descriptors)
            self.close()
            raise RemoteProtocolError("too many descriptors", fatal=True)

    def close(self) -> None:
        """Close descriptors whose message never came whole."""
        close_all(self._descriptors)
        self._buffer.clear()
