"""A raw vfio-user client: the server's own messages module, and whatever bytes a test wants."""

from __future__ import annotations

import array
import json
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from device.vfio_user import messages as wire
from device.vfio_user.framing import Framer, Message
from device.vfio_user.messages import HEADER_SIZE, Command, Flags, Header
from device.vfio_user.server import receive

TIMEOUT_S = 10
CAPABILITIES = {"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20}}


class Refused(Exception):
    """The server answered with an errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class RawClient:
    """Talks to the server on a socket; a context manager."""

    def __init__(self, path: Path, *, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path))
        self._framer = Framer()
        self._next_id = 1
        if negotiate:
            self.version()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._framer.close()
        self.socket.close()

    def send_raw(self, data: bytes, descriptors: list[int] | None = None) -> None:
        """Send bytes as they are, with descriptors if there are any."""
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def send(
        self,
        command: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        size: int | None = None,
        descriptors: list[int] | None = None,
    ) -> int:
        """Send a message and return its id. ``size`` overrides the header's true size."""
        identity, self._next_id = self._next_id, self._next_id + 1 & 0xFFFF
        length = HEADER_SIZE + len(payload) if size is None else size
        header = Header.STRUCT.pack(identity, command, length, flags, 0)
        self.send_raw(header + payload, descriptors)
        return identity

    def receive(self) -> Message:
        """Return the next message. EOFError when the server closed the connection."""
        while True:
            try:
                data, descriptors = receive(self.socket)
            except ConnectionResetError:
                data, descriptors = b"", []
            if not data:
                raise EOFError("the server closed the connection")
            if messages := self._framer.feed(data, descriptors):
                (message,) = messages
                return message

    def call(
        self,
        command: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        descriptors: list[int] | None = None,
    ) -> bytes:
        """Send a command and return its reply's payload. Refused carries the errno."""
        identity = self.send(command, payload, flags=flags, descriptors=descriptors)
        reply = self.receive()
        if reply.header.message_id != identity or reply.header.command != command:
            raise AssertionError(f"reply {reply.header} to message {identity}, command {command}")
        if not reply.header.flags & Flags.REPLY:
            raise AssertionError(f"not marked as a reply: {reply.header}")
        if reply.header.flags & Flags.ERROR:
            raise Refused(reply.header.error)
        return reply.payload

    def version(self, text: bytes | None = None, major: int = 0, minor: int = 0) -> bytes:
        """Negotiate."""
        if text is None:
            text = json.dumps(CAPABILITIES).encode() + b"\0"
        return self.call(Command.VERSION, struct.pack("<HH", major, minor) + text)

    def dma_map(
        self,
        address: int,
        size: int,
        descriptor: int | None,
        *,
        offset: int = 0,
        flags: int = 3,
    ) -> None:
        """Map memory for DMA."""
        payload = wire.DmaMap.STRUCT.pack(32, flags, offset, address, size)
        self.call(
            Command.DMA_MAP, payload, descriptors=[descriptor] if descriptor is not None else None
        )

    def dma_unmap(self, address: int, size: int, flags: int = 0) -> bytes:
        """Unmap memory."""
        payload = wire.DmaUnmap.STRUCT.pack(24, flags, address, size)
        return self.call(Command.DMA_UNMAP, payload)

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Read a region."""
        request = wire.RegionAccess.STRUCT.pack(offset, region, count)
        reply = self.call(Command.REGION_READ, request)
        if reply[:16] != request:
            raise AssertionError(f"the reply names another access: {reply[:16].hex()}")
        return reply[16:]

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write a region; a posted write has no reply."""
        payload = wire.RegionAccess.STRUCT.pack(offset, region, len(data)) + data
        if posted:
            self.send(Command.REGION_WRITE, payload, flags=Flags.NO_REPLY)
        else:
            self.call(Command.REGION_WRITE, payload)

    def write32(self, region: int, offset: int, value: int) -> None:
        """Write a 32-bit register."""
        self.region_write(region, offset, struct.pack("<I", value))

    def read32(self, region: int, offset: int) -> int:
        """Read a 32-bit register."""
        value: int = struct.unpack("<I", self.region_read(region, offset, 4))[0]
        return value

    def set_irqs(
        self,
        flags: int,
        index: int,
        start: int,
        count: int,
        data: bytes = b"",
        descriptors: list[int] | None = None,
    ) -> None:
        """Set interrupts."""
        payload = wire.SetIrqs.STRUCT.pack(20 + len(data), flags, index, start, count) + data
        self.call(Command.DEVICE_SET_IRQS, payload, descriptors=descriptors)
