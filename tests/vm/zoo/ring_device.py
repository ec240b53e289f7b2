# SPDX-License-Identifier: Apache-2.0
"""RingDevice: a job engine, a pair of frame rings and a small memory, for the drivers of the zoo.

It is a device as a user would write one: it works through its bus, in the turn of the doorbell.
``drivers/ring_device.h`` has the same layout for the drivers.

- A *job* moves bytes between host memory and the device's own 4 MiB, or within host memory. Its
  ends are addresses, or lists of segments. It ends by JOB_STATUS, by a completion record and by
  MSI-X vector JOB, as the doorbell asks.
- The *rings* loop frames back: a frame of the TX ring goes to the next buffer of the RX ring. The
  device takes a descriptor whose OWN bit is set, and gives it back with the bit cleared.
- The *heartbeat* is a word that the device writes as soon as it may.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar, NamedTuple, NoReturn

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Field,
    Fields,
    Flag,
    Identity,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace

MAGIC = 0x474E4952  # "RING"
SECTOR = 512  # bytes
MEMORY_SIZE = 4 << 20  # bytes of the device's own
JOB_MAX = 1 << 20  # bytes of one job
SEGMENTS_MAX = 256  # of one list
RING_MAX = 256  # descriptors
FRAME_MAX = 1 << 16  # bytes


class Reg(IntEnum):
    """BAR0. All registers are 32-bit little-endian."""

    ID = 0x00
    CONTROL = 0x04
    JOB_SOURCE_LO = 0x10
    JOB_SOURCE_HI = 0x14
    JOB_TARGET_LO = 0x18
    JOB_TARGET_HI = 0x1C
    JOB_LENGTH = 0x20  # bytes; of all segments
    JOB_SEGMENTS = 0x24
    JOB_SECTOR = 0x28  # where in the device's memory
    JOB_COOKIE = 0x2C
    JOB_COMPLETION_LO = 0x30
    JOB_COMPLETION_HI = 0x34
    JOB_DOORBELL = 0x38
    JOB_STATUS = 0x3C
    JOB_RESULT = 0x40  # CRC-32 of what was moved
    HEARTBEAT_LO = 0x50
    HEARTBEAT_HI = 0x54
    HEARTBEAT_CONTROL = 0x58
    TX_BASE_LO = 0x80
    TX_BASE_HI = 0x84
    TX_SIZE = 0x88  # descriptors; a write starts the ring anew, 0 stops it
    TX_TAIL = 0x8C  # doorbell: the first descriptor that is not for the device
    TX_HEAD = 0x90
    RX_BASE_LO = 0xA0
    RX_BASE_HI = 0xA4
    RX_SIZE = 0xA8
    RX_TAIL = 0xAC
    RX_HEAD = 0xB0
    RX_DROPPED = 0xB4  # frames that found no buffer


class Vector(IntEnum):
    """MSI-X vectors."""

    JOB = 0
    TX = 1
    RX = 2
    HEARTBEAT = 3


class Operation(IntEnum):
    """JOB_DOORBELL[2:0]. Other values end as BAD."""

    NONE = 0
    CHECKSUM = 1  # of the source
    COPY = 2  # from source to target
    LOAD = 3  # from source to the device's memory
    STORE = 4  # from the device's memory to the target
    INVERT = 5  # all bits of the target, in place
    RESERVED_6 = 6
    RESERVED_7 = 7


class State(IntEnum):
    """JOB_STATUS[2:0]."""

    IDLE = 0
    BUSY = 1
    DONE = 2
    REFUSED = 3  # a DMA was; JOB_STATUS[15:8] has the reason
    BAD = 4  # the job itself cannot be done


class Control(Fields):
    """CONTROL: a reset of the whole device, and its addressing."""

    reset = Flag(1 << 0, Access.SELF_CLEARING)
    narrow = Flag(1 << 1)  # drives 32 address bits: what lies above 4 GiB is refused


class JobSegments(Fields):
    """JOB_SEGMENTS: entries in the lists of segments."""

    source = Field(0xFFFF)
    target = Field(0xFFFF_0000)


class JobDoorbell(Fields):
    """JOB_DOORBELL: starts a job."""

    operation = Field(0x7, Access.SELF_CLEARING, type=Operation)
    source_list = Flag(1 << 4, Access.SELF_CLEARING)  # JOB_SOURCE is the address of a list
    target_list = Flag(1 << 5, Access.SELF_CLEARING)
    record = Flag(1 << 8, Access.SELF_CLEARING)  # write a completion record
    interrupt = Flag(1 << 9, Access.SELF_CLEARING)


class DescriptorFlag(IntFlag):
    """The last word of a ring's descriptor."""

    OWN = 1 << 31  # the device's
    ERROR = 1 << 30
    LAST = 1 << 29  # of a frame


@dataclass(frozen=True, slots=True)
class Descriptor:
    """16 bytes of a ring. ``length`` in bytes: of the buffer, and of the frame given back."""

    address: int
    length: int
    flags: DescriptorFlag

    STRUCT = struct.Struct("<QII")

    def pack(self) -> bytes:
        """Return the descriptor's bytes."""
        return self.STRUCT.pack(self.address, self.length, self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """Read a descriptor; bits without a meaning are ignored."""
        address, length, flags = cls.STRUCT.unpack(data)
        return cls(address, length, DescriptorFlag(flags & 0xE000_0000))


SEGMENT = struct.Struct("<QII")  # address, length in bytes, reserved
COMPLETION = struct.Struct("<IIII")  # cookie, JOB_STATUS, JOB_RESULT, 1: valid


class BadJob(Exception):
    """A job that cannot be done, whatever memory holds."""


class Ring(NamedTuple):
    """The registers of one ring."""

    base: tuple[int, int]
    size: int
    tail: int
    head: int


TX = Ring((Reg.TX_BASE_LO, Reg.TX_BASE_HI), Reg.TX_SIZE, Reg.TX_TAIL, Reg.TX_HEAD)
RX = Ring((Reg.RX_BASE_LO, Reg.RX_BASE_HI), Reg.RX_SIZE, Reg.RX_TAIL, Reg.RX_HEAD)
_READ_ONLY = {Reg.ID, Reg.JOB_STATUS, Reg.JOB_RESULT, Reg.TX_HEAD, Reg.RX_HEAD, Reg.RX_DROPPED}
_FIELDS: dict[Reg, type[Fields]] = {
    Reg.CONTROL: Control,
    Reg.JOB_SEGMENTS: JobSegments,
    Reg.JOB_DOORBELL: JobDoorbell,
}


def _register(reg: Reg) -> Register:
    if reg in _FIELDS:
        return Register(reg, _FIELDS[reg])
    if reg in _READ_ONLY:
        return Register(reg, reset=MAGIC if reg is Reg.ID else 0)
    return Register(reg, Access.RW, mask=1 if reg is Reg.HEARTBEAT_CONTROL else 0xFFFF_FFFF)


class RingDevice(Endpoint):
    """1234:21d6."""

    name = "ring"
    identity = Identity(vendor_id=0x1234, device_id=0x21D6, class_code=0xFF0000)
    vectors = len(Vector)
    bars: ClassVar[Bars] = {0: RegisterBar(tuple(map(_register, Reg)))}

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.store = bytearray(MEMORY_SIZE)
        self._beats = 0

    # The whole device.

    def on_reset(self) -> None:
        """Forget what the memory holds."""
        self.store[:] = bytes(MEMORY_SIZE)
        self._beats = 0

    def write_control(self, value: int) -> None:
        """Reset the device, as far as software asks for it."""
        if Control(value).reset:
            self.registers(0).reset()
            self.on_reset()

    def on_command(self) -> None:
        """Catch up on a heartbeat that had to wait for bus mastering."""
        self._beat()

    def write_heartbeat_control(self, value: int) -> None:
        """Begin, or end, the heartbeat."""
        del value
        self._beat()

    def _beat(self) -> None:
        registers = self.registers(0)
        if registers[Reg.HEARTBEAT_CONTROL] & 1 and self.config.bus_master:
            self._beats += 1
            address = registers.pair(Reg.HEARTBEAT_LO, Reg.HEARTBEAT_HI)
            self._write(address, struct.pack("<Q", self._beats))
            self.msix(Vector.HEARTBEAT)

    # Memory.

    def _check_reach(self, address: int, length: int, *, write: bool) -> None:
        """Refuse what the address lines cannot reach."""
        narrow = Control(self.registers(0)[Reg.CONTROL]).narrow
        if narrow and (address + max(length, 1) - 1) >> 32:
            self.bus.refuse(DmaReason.ADDRESS_BITS, [(address, length)], write=write)
            raise DmaRefused(DmaReason.ADDRESS_BITS, address)

    def _read(self, address: int, length: int) -> bytes:
        self._check_reach(address, length, write=False)
        return self.bus.read(address, length)

    def _write(self, address: int, data: bytes) -> None:
        self._check_reach(address, len(data), write=True)
        self.bus.write(address, data)

    # Jobs.

    def write_job_doorbell(self, value: int) -> None:
        """Do a job. Its bytes move before the completion record, and that before the interrupt."""
        registers, doorbell = self.registers(0), JobDoorbell(value)
        if doorbell.operation is Operation.NONE:
            return
        registers[Reg.JOB_STATUS], registers[Reg.JOB_RESULT] = State.BUSY, 0
        result, status = 0, int(State.DONE)
        try:
            result = zlib.crc32(self._job(doorbell))
            if doorbell.record:
                self._write_record(State.DONE, result)
        except BadJob:
            status = State.BAD
        except DmaRefused as refusal:
            status = State.REFUSED | refusal.reason << 8
        registers[Reg.JOB_STATUS], registers[Reg.JOB_RESULT] = status, result
        if doorbell.interrupt:
            self.msix(Vector.JOB)

    def _write_record(self, status: int, result: int) -> None:
        registers = self.registers(0)
        record = COMPLETION.pack(registers[Reg.JOB_COOKIE], status, result, 1)
        self._write(registers.pair(Reg.JOB_COMPLETION_LO, Reg.JOB_COMPLETION_HI), record)

    def _job(self, doorbell: JobDoorbell) -> bytes:
        """Move a job's bytes, and return them."""
        match doorbell.operation:
            case Operation.CHECKSUM:
                return self._gather(self._source(doorbell))
            case Operation.COPY:
                data = self._gather(self._source(doorbell))
                self._scatter(self._target(doorbell), data)
            case Operation.LOAD:
                place = self._place()
                data = self._gather(self._source(doorbell))
                self.store[place] = data
            case Operation.STORE:
                data = bytes(self.store[self._place()])
                self._scatter(self._target(doorbell), data)
            case Operation.INVERT:
                segments = self._target(doorbell)
                data = bytes(each ^ 0xFF for each in self._gather(segments))
                self._scatter(segments, data)
            case _:
                raise BadJob
        return data

    def _place(self) -> slice:
        registers = self.registers(0)
        start = registers[Reg.JOB_SECTOR] * SECTOR
        end = start + registers[Reg.JOB_LENGTH]
        if end > MEMORY_SIZE:
            raise BadJob
        return slice(start, end)

    def _source(self, doorbell: JobDoorbell) -> list[tuple[int, int]]:
        registers = self.registers(0)
        address = registers.pair(Reg.JOB_SOURCE_LO, Reg.JOB_SOURCE_HI)
        count = JobSegments(registers[Reg.JOB_SEGMENTS]).source
        return self._segments(address, count if doorbell.source_list else None)

    def _target(self, doorbell: JobDoorbell) -> list[tuple[int, int]]:
        registers = self.registers(0)
        address = registers.pair(Reg.JOB_TARGET_LO, Reg.JOB_TARGET_HI)
        count = JobSegments(registers[Reg.JOB_SEGMENTS]).target
        return self._segments(address, count if doorbell.target_list else None)

    def _segments(self, address: int, count: int | None) -> list[tuple[int, int]]:
        """Return (address, bytes) of JOB_LENGTH bytes: of a list of ``count`` entries, or one."""
        length = self.registers(0)[Reg.JOB_LENGTH]
        if not 0 < length <= JOB_MAX:
            raise BadJob
        if count is None:
            return [(address, length)]
        if not 0 < count <= SEGMENTS_MAX:
            raise BadJob
        entries = SEGMENT.iter_unpack(self._read(address, count * SEGMENT.size))
        segments = [(at, bytes_) for at, bytes_, _ in entries]
        for at, bytes_ in segments:
            if not bytes_:
                self._refuse_descriptor(at, 0)
        if sum(bytes_ for _, bytes_ in segments) != length:
            raise BadJob
        return segments

    def _refuse_descriptor(self, address: int, length: int) -> NoReturn:
        self.bus.refuse(DmaReason.BAD_DESCRIPTOR, [(address, length)], write=False)
        raise DmaRefused(DmaReason.BAD_DESCRIPTOR, address)

    def _gather(self, segments: list[tuple[int, int]]) -> bytes:
        return b"".join(self._read(address, length) for address, length in segments)

    def _scatter(self, segments: list[tuple[int, int]], data: bytes) -> None:
        position = 0
        for address, length in segments:
            self._write(address, data[position : position + length])
            position += length

    # Rings.

    def write_tx_size(self, value: int) -> None:
        """Start the ring anew."""
        self._start_ring(TX, value)

    def write_rx_size(self, value: int) -> None:
        """Start the ring anew."""
        self._start_ring(RX, value)

    def _start_ring(self, ring: Ring, size: int) -> None:
        registers = self.registers(0)
        registers[ring.size] = min(size, RING_MAX)
        registers[ring.head] = registers[ring.tail] = 0

    def write_tx_tail(self, value: int) -> None:
        """Send what the driver has queued, each frame to the RX ring."""
        del value
        frame, taken, received = bytearray(), False, False
        for _ in range(RING_MAX):  # a guest cannot keep it here
            step = self._take(TX, lambda descriptor: self._send(descriptor, frame))
            if step is None:
                break
            taken = True
            if step.flags & DescriptorFlag.LAST:
                received |= self._receive(bytes(frame))
                frame.clear()
        if taken:
            self.msix(Vector.TX)
        if received:
            self.msix(Vector.RX)

    def _send(self, descriptor: Descriptor, frame: bytearray) -> Descriptor | None:
        if not descriptor.length:
            self._refuse_descriptor(descriptor.address, 0)
        if descriptor.length > FRAME_MAX - len(frame):
            return None
        frame += self._read(descriptor.address, descriptor.length)
        return descriptor

    def _receive(self, frame: bytes) -> bool:
        """Store a frame in the next RX buffer; return whether there was one."""

        def store(descriptor: Descriptor) -> Descriptor | None:
            if len(frame) > descriptor.length:
                return None
            self._write(descriptor.address, frame)
            return Descriptor(descriptor.address, len(frame), DescriptorFlag.LAST)

        if self._take(RX, store) is None:
            self.registers(0)[Reg.RX_DROPPED] += 1
            return False
        return True

    def _take(
        self, ring: Ring, use: Callable[[Descriptor], Descriptor | None]
    ) -> Descriptor | None:
        """Take the next descriptor, use its buffer, and give it back without OWN.

        None when there is none, or the ring itself cannot be read or written. A buffer that ``use``
        does not like, or that is refused, makes an ERROR of it.
        """
        registers = self.registers(0)
        size, head = registers[ring.size], registers[ring.head]
        if not size or head == registers[ring.tail] % size:
            return None
        address = registers.pair(*ring.base) + head * Descriptor.STRUCT.size
        try:
            found = Descriptor.unpack(self._read(address, Descriptor.STRUCT.size))
            if not found.flags & DescriptorFlag.OWN:  # though the tail is behind it
                self._refuse_descriptor(address, Descriptor.STRUCT.size)
            try:
                done = use(found)
            except DmaRefused:
                done = None
            flags = (found if done is None else done).flags & ~DescriptorFlag.OWN
            if done is None:
                flags |= DescriptorFlag.ERROR
            length = 0 if done is None else done.length
            # All but the address: two words, of which the one with OWN is the last.
            self._write(address + 8, struct.pack("<II", length, flags))
        except DmaRefused:
            return None
        registers[ring.head] = (head + 1) % size
        return Descriptor(found.address, length, DescriptorFlag(flags))
