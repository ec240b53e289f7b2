# SPDX-License-Identifier: Apache-2.0
"""An endpoint and its connection, without a socket."""

from __future__ import annotations

import fcntl
import os

from dma_rehearsal.device.endpoints.bars import MemoryBar
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.pci.config import Command, Identity
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.connection import Connection
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import HEADER_SIZE, Flags, Header

PAGE = 4096


FIRST, SECOND, READ_ONLY, BARE = 0x10000, 0x12000, 0x14000, 0x15000  # two pages, two, one, one


BAR = 0x11000


class Plain(Endpoint):
    """Memory in BAR0, and bus mastering from the beginning."""

    identity = Identity(vendor_id=0x1234, device_id=1, class_code=0xFF0000)
    bars = {0: MemoryBar(PAGE)}  # noqa: RUF012
    command_at_reset = Command.BUS_MASTER | Command.MEMORY_SPACE


class ConnectedEndpoint:
    """An endpoint and its connection: two mappings side by side, one read-only, one bare."""

    def __init__(self, *, sealed: bool = True) -> None:
        self.endpoint = Plain()
        self.connection = Connection(self.endpoint)
        self.memory = os.memfd_create("lists", os.MFD_ALLOW_SEALING)
        os.truncate(self.memory, 5 * PAGE)
        if sealed:  # or it is not mapped
            fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.command(wire.Command.VERSION, bytes(4))
        for address, pages, flags, offset in (
            (FIRST, 2, 3, 2 * PAGE),
            (SECOND, 2, 3, 0),
            (READ_ONLY, 1, 1, 4 * PAGE),
        ):
            grant = wire.DmaMap(32, flags, offset, address, pages * PAGE).pack()
            self.command(wire.Command.DMA_MAP, grant, os.dup(self.memory))
        self.command(wire.Command.DMA_MAP, wire.DmaMap(32, 3, 0, BARE, PAGE).pack())

    def command(self, command: int, payload: bytes, *descriptors: int) -> bytes:
        header = Header(1, command, HEADER_SIZE + len(payload), Flags.COMMAND, 0)
        self.connection.handle(Message(header, payload, list(descriptors)))
        reply = self.connection.outbox.popleft().data
        assert Header.unpack(reply).error == 0
        return reply[HEADER_SIZE:]

    def fill(self, content: bytes) -> None:
        os.pwrite(self.memory, content, 0)
        self.endpoint.bus.transactions.clear()

    @property
    def content(self) -> bytes:
        return os.pread(self.memory, 5 * PAGE, 0)

    def close(self) -> None:
        self.connection.close()
        os.close(self.memory)
