# SPDX-License-Identifier: Apache-2.0
"""A raw vfio-user client: the server's own messages module, and whatever bytes a test wants."""

from __future__ import annotations

import array
import json
import socket
import struct
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from dma_rehearsal.device.pci.msix import ENABLE, MESSAGE_CONTROL, MsiX
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.closing import close_all
from dma_rehearsal.device.vfio_user.framing import Framer, Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Command, Flags, Header
from dma_rehearsal.device.vfio_user.stream import receive

TIMEOUT_S = 10
CAPABILITIES = {
    "capabilities": {
        "max_msg_fds": 16,
        "max_data_xfer_size": 1 << 20,
        "pgsizes": 4096,
        "write_multiple": True,
    }
}


class Refused(Exception):
    """The server answered with an errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class RawClient:
    """Talks to the server on a socket; a context manager."""

    def __init__(self, path: Path, *, negotiate: bool = True, decode: bool = True) -> None:
        """Connect, negotiate, and ``decode``: enable the device, so that its BARs answer."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))  # waits for its turn; with a timeout it would not
        self.socket.settimeout(TIMEOUT_S)
        self._framer = Framer()
        self._received: deque[Message] = deque()
        self._next_id = 1
        if negotiate:
            self.version()
            if decode:
                self.decode()

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
        for message in self._received:
            close_all(message.descriptors)
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
        while not self._received:
            try:
                data, descriptors = receive(self.socket)
            except ConnectionResetError:
                data, descriptors = b"", []
            if not data:
                raise EOFError("the server closed the connection")
            self._received.extend(self._framer.feed(data, descriptors))
        return self._received.popleft()

    def _receive_kind(self, kind: Flags) -> Message:
        """Return the next command or the next reply; what came before it stays for later."""
        passed: list[Message] = []
        try:
            while True:
                message = self.receive()
                if message.header.flags & Flags.TYPE_MASK == kind:
                    return message
                passed.append(message)
        finally:
            self._received.extendleft(reversed(passed))

    def receive_command(self, command: Command) -> tuple[Header, wire.DmaAccess, bytes]:
        """Return the next message, which must be the server's own: its header, access and data."""
        message = self._receive_kind(Flags.COMMAND)
        if message.header.command != command:
            raise AssertionError(f"{message.header} in place of {command.name}")
        access = wire.DmaAccess.unpack(message.payload)
        return message.header, access, message.payload[wire.DmaAccess.STRUCT.size :]

    def answer(self, header: Header, payload: bytes = b"", error: int = 0) -> None:
        """Reply to a command of the server."""
        flags = Flags.REPLY | (Flags.ERROR if error else 0)
        reply = Header(header.message_id, header.command, HEADER_SIZE + len(payload), flags, error)
        self.send_raw(reply.pack() + payload)

    def call(
        self,
        command: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        descriptors: list[int] | None = None,
    ) -> bytes:
        """Send a command and return its reply's payload. Refused carries the errno."""
        message = self.exchange(command, payload, flags=flags, descriptors=descriptors)
        if message.descriptors:
            close_all(message.descriptors)
            raise AssertionError("descriptors in a reply to a command that has none")
        return message.payload

    def exchange(
        self,
        command: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        descriptors: list[int] | None = None,
    ) -> Message:
        """Send a command and return its reply, whose descriptors are the caller's then."""
        identity = self.send(command, payload, flags=flags, descriptors=descriptors)
        reply = self._receive_kind(Flags.REPLY)
        if reply.header.message_id != identity or reply.header.command != command:
            raise AssertionError(f"reply {reply.header} to message {identity}, command {command}")
        if reply.header.flags & Flags.ERROR:
            if reply.payload:
                raise AssertionError("an error's reply has a payload")
            raise Refused(reply.header.error)
        return reply

    def version(self, text: bytes | None = None, major: int = 0, minor: int = 0) -> bytes:
        """Negotiate."""
        if text is None:
            text = json.dumps(CAPABILITIES).encode() + b"\0"
        return self.call(Command.VERSION, struct.pack("<HH", major, minor) + text)

    def feature(self, flags: int, data: bytes = b"", argsz: int = 1 << 20) -> bytes:
        """Get, set or probe a device feature; return what follows the reply's fixed part."""
        reply = self.call(Command.DEVICE_FEATURE, wire.DeviceFeature(argsz, flags).pack() + data)
        return reply[wire.DeviceFeature.STRUCT.size :]

    def set_state(self, state: int) -> None:
        """Ask for a migration state; the reply must be the request."""
        data = wire.MigState(state, -1).pack()
        if self.feature(wire.FeatureFlag.SET | wire.Feature.MIG_DEVICE_STATE, data, 16) != data:
            raise AssertionError("the reply is not the request")

    def state(self) -> int:
        """Return the migration state."""
        data = self.feature(wire.FeatureFlag.GET | wire.Feature.MIG_DEVICE_STATE, argsz=16)
        return wire.MigState.unpack(data).device_state

    def migration_read(self, size: int) -> bytes:
        """Return the next bytes of the state."""
        reply = self.call(Command.MIG_DATA_READ, wire.MigData(8 + size, size).pack())
        found = wire.MigData.unpack(reply)
        if found.argsz != 8 + found.size or len(reply) != 8 + size:
            raise AssertionError(f"{found} in {len(reply)} bytes")
        return reply[8 : 8 + found.size]

    def migration_write(self, data: bytes) -> None:
        """Send the next bytes of a state."""
        payload = wire.MigData(8 + len(data), len(data)).pack() + data
        if self.call(Command.MIG_DATA_WRITE, payload):
            raise AssertionError("the reply has a payload")

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

    def decode(self) -> None:
        """Let the BARs answer, as enabling a PCI device does, and change nothing else."""
        command = self.region_read(7, 4, 1)[0]
        if not command & 2:
            self.region_write(7, 4, bytes([command | 2]))

    def start(self) -> None:
        """Do what a driver does first: let the BARs answer; enable bus mastering and MSI-X."""
        self.region_write(7, 4, struct.pack("<H", 6))
        place = self.region_read(7, 0x34, 1)[0]
        while place:
            kind, following = self.region_read(7, place, 2)
            if kind == MsiX.id:
                self.region_write(7, place + MESSAGE_CONTROL, struct.pack("<H", ENABLE))
            place = following

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
