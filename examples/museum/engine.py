# SPDX-License-Identifier: Apache-2.0
"""The device of the drivers: memory of its own, and a DMA engine that fills and empties it.

A job moves LENGTH bytes between the device's memory and an address on the bus. It is started by a
command register, or taken from a ring of descriptors in memory. The end of a job sets STATUS, and
sends MSI-X vector 0. A refused DMA ends a job with an error, as it does on a board.
"""

import struct
from enum import IntEnum
from typing import ClassVar, NamedTuple

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)

MEMORY_SIZE = 1 << 18  # bytes of the device's own memory
LENGTH_OF_0 = 1 << 16  # bytes; as in many engines a length of 0 means the largest
RING_MAX = 256  # descriptors


class Reg(IntEnum):
    """BAR0. All registers are 32-bit little-endian. ``museum.h`` has the same table."""

    ADDRESS_LO = 0x00  # on the bus
    ADDRESS_HI = 0x04
    LENGTH = 0x08  # bytes; 0 means LENGTH_OF_0
    OFFSET = 0x0C  # in the device's memory
    COMMAND = 0x10
    STATUS = 0x14
    RING_LO = 0x20
    RING_HI = 0x24
    RING_SIZE = 0x28  # descriptors
    RING_TAIL = 0x2C  # one past the last descriptor that the driver has filled in


class Command(IntEnum):
    """COMMAND: the job that a write starts."""

    FETCH = 1  # memory -> device
    STORE = 2  # device -> memory


class Status(IntEnum):
    """STATUS: how the last job ended, until the driver writes IDLE."""

    IDLE = 0
    DONE = 1
    FAILED = 2


OWN = 1 << 31
RING_STORE = 1 << 0
LAST = 1 << 1  # the end of a job


class Descriptor(NamedTuple):
    """16 bytes in memory. The device clears OWN when it is done with it."""

    address: int
    length: int
    flags: int  # OWN, RING_STORE, LAST


DESCRIPTOR = struct.Struct("<QII")


class Engine(Endpoint):
    """1234:0dab. A museum piece overrides what its own hardware does in another way."""

    name = "museum"
    identity = Identity(vendor_id=0x1234, device_id=0x0DAB, class_code=0xFF0000)
    vectors = 1
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                *(Register(each, Access.RW) for each in (Reg.ADDRESS_LO, Reg.ADDRESS_HI)),
                *(Register(each, Access.RW) for each in (Reg.LENGTH, Reg.OFFSET)),
                Register(Reg.COMMAND, Access.WO),
                Register(Reg.STATUS, Access.RW),
                *(Register(each, Access.RW) for each in (Reg.RING_LO, Reg.RING_HI)),
                *(Register(each, Access.RW) for each in (Reg.RING_SIZE, Reg.RING_TAIL)),
            ),
            size=0x1000,
        )
    }

    def on_reset(self) -> None:
        """Forget what the memory holds, and where the ring stands."""
        self.own = bytearray(MEMORY_SIZE)
        self.head = self.offset = 0

    own = bytearray(MEMORY_SIZE)
    head = 0  # of the ring: the next descriptor to take
    offset = 0  # in the device's memory, of the next segment of a job

    # What a museum piece overrides.

    def reach(self, address: int) -> int:
        """Return the address that the device drives for one that it was given."""
        return address

    def fetch(self, address: int, length: int) -> bytes:
        """Read memory."""
        return self.bus.read(self.reach(address), length)

    def store(self, address: int, data: bytes) -> None:
        """Write memory."""
        self.bus.write(self.reach(address), data)

    # Jobs.

    def write_ring_size(self, _value: int) -> None:
        """Begin a ring at its first descriptor."""
        self.head = self.offset = 0

    def write_command(self, value: int) -> None:
        """Do one job of the registers."""
        registers = self.registers(0)
        address = registers.pair(Reg.ADDRESS_LO, Reg.ADDRESS_HI)
        length, offset = registers[Reg.LENGTH], registers[Reg.OFFSET]
        done = False
        if value in (Command.FETCH, Command.STORE):
            done = self.move(address, length, offset, store=value == Command.STORE)
        self.end(done)

    def write_ring_tail(self, _value: int) -> None:
        """Take the descriptors up to the tail; at most one turn of the ring."""
        registers = self.registers(0)
        size = registers[Reg.RING_SIZE]
        if not 0 < size <= RING_MAX:
            self.end(False)
            return
        ring = registers.pair(Reg.RING_LO, Reg.RING_HI)
        for _ in range(size):
            if self.head == registers[Reg.RING_TAIL] % size or not self.take(ring, size):
                return

    def take(self, ring: int, size: int) -> bool:
        """Carry out the descriptor at the head; return whether there may be another."""
        place = ring + self.head * DESCRIPTOR.size
        try:
            descriptor = Descriptor(*DESCRIPTOR.unpack(self.fetch(place, DESCRIPTOR.size)))
        except DmaRefused:
            self.end(False)
            return False
        if not descriptor.flags & OWN:
            self.end(False)
            return False
        store = bool(descriptor.flags & RING_STORE)
        done = self.move(descriptor.address, descriptor.length, self.offset, store=store)
        self.offset += descriptor.length
        flags = descriptor.flags & ~OWN
        try:
            self.store(place + 12, flags.to_bytes(4, "little"))
        except DmaRefused:
            done = False
        self.head = (self.head + 1) % size
        if not done or flags & LAST:
            self.offset = 0
            self.end(done)
        return done

    def move(self, address: int, length: int, offset: int, *, store: bool) -> bool:
        """Move bytes between memory and the device's own; return whether it could."""
        length = length or LENGTH_OF_0
        if offset + length > MEMORY_SIZE:
            return False
        try:
            if store:
                self.store(address, bytes(self.own[offset : offset + length]))
            else:
                self.own[offset : offset + length] = self.fetch(address, length)
        except DmaRefused:
            return False
        return True

    def end(self, done: bool) -> None:
        """Tell the driver that a job has ended."""
        self.registers(0)[Reg.STATUS] = Status.DONE if done else Status.FAILED
        self.msix(0)
