# SPDX-License-Identifier: Apache-2.0
"""A driver of the virtio example: rings in a fake client's memory, requests by their parts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.pci.msix import MsiX
from dma_rehearsal.device.trace import Trace
from examples.virtio_blk.blk_device import (
    HEADER,
    NO_VECTOR,
    NOTIFY_STRIDE,
    Feature,
    Reg,
    Status,
    VirtioBlk,
)
from tests.unit.device.fakes import BASE, FakeClient, start

NEXT, WRITE, INDIRECT = 1, 2, 4
OFFERED = Feature(sum(Feature))
STATUS_BYTE, HEADERS, TABLES, DATA = BASE + 0x6000, BASE + 0x7000, BASE + 0x8000, BASE + 0x1_0000
UNTOUCHED = 0x77  # a status byte that the device has not written


@dataclass
class Ring:
    """A queue of the driver: three parts in memory."""

    number: int
    size: int
    available: int = 0
    seen: int = 0
    descriptors: int = 0

    @property
    def base(self) -> int:
        """The descriptor table."""
        return BASE + 0x2000 * self.number

    @property
    def driver(self) -> int:
        """The available ring."""
        return self.base + 0x800

    @property
    def device(self) -> int:
        """The used ring."""
        return self.base + 0xC00


@dataclass
class Host:
    """The device, its client, and a driver without a kernel."""

    client: FakeClient = field(default_factory=FakeClient)
    disk: VirtioBlk = field(default_factory=lambda: VirtioBlk(Trace()))
    messages: bool = True

    def __post_init__(self) -> None:
        self.disk.attach(self.client)
        start(self.disk)
        if not self.messages:
            at = self.disk.config.start_of(MsiX)
            assert at is not None
            self.disk.region_write(7, at + 2, bytes(2))

    # Registers.

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.disk.region_write(0, register, value.to_bytes(size, "little"))

    def read(self, register: int, size: int = 4) -> int:
        return int.from_bytes(self.disk.region_read(0, register, size), "little")

    @property
    def status(self) -> Status:
        return Status(self.read(Reg.DEVICE_STATUS, 1))

    def agree(self, features: int = OFFERED) -> bool:
        """Negotiate features; return whether the device agrees (3.1.1)."""
        self.write(Reg.DEVICE_STATUS, 0, 1)
        status = 1 | 2  # ACKNOWLEDGE, DRIVER
        self.write(Reg.DEVICE_STATUS, status, 1)
        for half in range(2):
            self.write(Reg.DRIVER_FEATURE_SELECT, half)
            self.write(Reg.DRIVER_FEATURE, features >> 32 * half & 0xFFFF_FFFF)
        self.write(Reg.DEVICE_STATUS, status | Status.FEATURES_OK, 1)
        return Status.FEATURES_OK in self.status

    def add_ring(self, number: int = 0, size: int = 8, *, vector: int | None = None) -> Ring:
        ring = Ring(number, size)
        self.put(ring.base, bytes(0x1000))
        self.write(Reg.QUEUE_SELECT, number, 2)
        self.write(Reg.QUEUE_SIZE, size, 2)
        self.write(Reg.QUEUE_MSIX_VECTOR, 1 + number if vector is None else vector, 2)
        for register, address in (
            (Reg.QUEUE_DESC, ring.base),
            (Reg.QUEUE_DRIVER, ring.driver),
            (Reg.QUEUE_DEVICE, ring.device),
        ):
            self.write(register, address & 0xFFFF_FFFF)  # as Linux does: a half at a time
            self.write(register + 4, address >> 32)
        self.write(Reg.QUEUE_ENABLE, 1, 2)
        return ring

    def begin(self, features: int = OFFERED, size: int = 8) -> Ring:
        """Bring the device up to its first queue."""
        assert self.agree(features)
        self.write(Reg.CONFIG_MSIX_VECTOR, 0 if self.messages else NO_VECTOR, 2)
        ring = self.add_ring(size=size)
        self.write(Reg.DEVICE_STATUS, self.status | Status.DRIVER_OK, 1)
        return ring

    # Memory.

    def put(self, address: int, data: bytes) -> None:
        self.client.ram[address - BASE : address - BASE + len(data)] = data

    def get(self, address: int, length: int) -> bytes:
        return bytes(self.client.ram[address - BASE : address - BASE + length])

    def word(self, address: int) -> int:
        return int.from_bytes(self.get(address, 2), "little")

    # Requests.

    def describe(self, place: int, index: int, *parts: int) -> None:
        """Write a descriptor: address, bytes, flags, next."""
        self.put(place + 16 * index, struct.pack("<QIHH", *parts))

    def offer(
        self,
        ring: Ring,
        parts: Sequence[tuple[int, int, int]],
        *,
        indirect: bool = False,
        ring_bell: bool = True,
    ) -> int:
        """Make a chain of (address, bytes, flags) available; return its head."""
        head = ring.descriptors if ring.descriptors + len(parts) <= ring.size else 0
        table, first = (TABLES, 0) if indirect else (ring.base, head)
        for number, (address, length, flags) in enumerate(parts):
            more = number + 1 < len(parts)
            index = first + number
            self.describe(table, index, address, length, flags | NEXT * more, (index + 1) * more)
        if indirect:
            self.describe(ring.base, head, TABLES, 16 * len(parts), INDIRECT, 0)
        ring.descriptors = head + (1 if indirect else len(parts))
        self.publish(ring, head)
        if ring_bell:
            self.notify(ring)
        return head

    def publish(self, ring: Ring, head: int) -> None:
        self.put(ring.driver + 4 + 2 * (ring.available % ring.size), struct.pack("<H", head))
        ring.available += 1
        self.put(ring.driver + 2, struct.pack("<H", ring.available & 0xFFFF))

    def notify(self, ring: Ring) -> None:
        self.write(Reg.NOTIFY + NOTIFY_STRIDE * ring.number, ring.number, 2)

    def request(
        self,
        ring: Ring,
        kind: int,
        sector: int = 0,
        data: Sequence[tuple[int, int, int]] = (),
        **how: bool,
    ) -> int:
        """Offer a request with these data segments; return its head."""
        place = HEADERS + 16 * (ring.available % 64)
        self.put(place, HEADER.pack(kind, 0, sector))
        self.put(STATUS_BYTE, bytes([UNTOUCHED]))
        return self.offer(ring, [(place, 16, 0), *data, (STATUS_BYTE, 1, WRITE)], **how)

    @property
    def answer(self) -> int:
        return self.get(STATUS_BYTE, 1)[0]

    def used(self, ring: Ring) -> list[tuple[int, int]]:
        """Take (head, bytes written) of each buffer that came back."""
        found = []
        while ring.seen & 0xFFFF != self.word(ring.device + 2):
            at = ring.device + 4 + 8 * (ring.seen % ring.size)
            found.append(struct.unpack("<II", self.get(at, 8)))
            ring.seen += 1
        return [(head, written) for head, written in found]
