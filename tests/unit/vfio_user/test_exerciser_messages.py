# SPDX-License-Identifier: Apache-2.0
"""The exerciser's DMA in memory that its client mapped without a descriptor.

The client plays the part of QEMU: it owns the memory, answers DMA_READ and DMA_WRITE, and reads
registers while the device waits for it.
"""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import (
    AtsCtl,
    DmaCtl,
    DmaReason,
    DmaStatus,
    Ext,
    Reg,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.vfio_user.messages import Command, DmaAccess, Header
from tests.unit.device.pci.capability_list import ATS
from tests.unit.vfio_user.client import RawClient, Refused

BASE, SIZE = 0x10_0000, 0x4_0000
MAPPED = 0x80_0000  # the same, with a descriptor
HOLE = 0x4000_0000
PENDING = 1 << 5
WRITE, CHAIN, INTERRUPT = RingFlag.WRITE_MEMORY, RingFlag.CHAIN, RingFlag.INTERRUPT
RING = BASE + 0x1000
DATA = bytes(range(1, 101))


class Owner:
    """A client that owns memory, of which the device reaches a part by messages alone."""

    def __init__(self, client: RawClient, memory: int) -> None:
        self.client = client
        self.ram = bytearray(SIZE)
        self.served: list[tuple[Command, int, int]] = []
        client.dma_map(BASE, SIZE, None)
        client.dma_map(MAPPED, SIZE, memory)
        client.region_write(7, 4, b"\x06\x00")

    def trigger(self, address: int, length: int, *, write: bool, control: int = 0) -> None:
        write32 = self.client.write32
        write32(0, Reg.DMA_BUS_ADDR_LO, address)
        write32(0, Reg.DMA_LEN, length)
        direction = DmaCtl.WRITE_MEMORY if write else 0
        write32(0, Reg.DMACTL, DmaCtl.TRIGGER | direction | control)

    def asked(self, command: Command) -> tuple[Header, DmaAccess, bytes]:
        return self.client.receive_command(command)

    def serve(self, command: Command, count: int = 1) -> None:
        """Answer so many messages, and look at the device while each is owed."""
        for _ in range(count):
            header, access, data = self.asked(command)
            self.served.append((command, access.address, access.count))
            start = access.address - BASE
            if command == Command.DMA_WRITE:
                self.ram[start : start + access.count] = data
            else:
                data = bytes(self.ram[start : start + access.count])
            reply = access.pack() + (data if command == Command.DMA_READ else b"")
            self.client.answer(header, reply)

    @property
    def busy(self) -> bool:
        """Whether DMACTL or the ring, and Transactions Pending, say that a DMA is in flight."""
        seen = self.client.read32(0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK
        ring = self.client.read32(3, Ext.RING_STATUS) == RingStatus.BUSY
        pending = struct.unpack("<H", self.client.region_read(7, 0x4A, 2))[0] & PENDING
        assert bool(pending) == (bool(seen) or ring)
        return bool(pending)

    def last(self) -> tuple[int, int]:
        """Return the last record's reason and bytes moved."""
        count = self.client.read32(3, Ext.DMA_COUNT)
        self.client.write32(3, Ext.RECORD_SELECT, count)
        return (
            self.client.read32(3, Ext.RECORD_REASON),
            self.client.read32(3, Ext.RECORD_MOVED),
        )

    def abort(self) -> tuple[int, int]:
        return self.client.read32(3, Ext.ABORT_REASON), self.client.read32(3, Ext.ABORT_MOVED)

    def ring(self, descriptors: list[RingDescriptor], base: int = RING) -> None:
        """Lay a ring and ring its doorbell."""
        for index, descriptor in enumerate(descriptors):
            start = base - BASE + 32 * index
            self.ram[start : start + 32] = descriptor.pack()
        write32 = self.client.write32
        write32(3, Ext.RING_BASE_LO, base)
        write32(3, Ext.RING_SIZE, 64)
        write32(3, Ext.RING_CONTROL, 1)
        write32(3, Ext.RING_DOORBELL, len(descriptors))

    def completion(self) -> tuple[int, int]:
        return self.client.read32(3, Ext.RING_STATUS), self.client.read32(3, Ext.RING_COMPLETION)


@pytest.fixture
def owner(client: RawClient, memory: int) -> Owner:
    return Owner(client, memory)


def test_read(owner: Owner) -> None:
    owner.ram[:100] = DATA
    owner.client.write32(0, Reg.DMASTATUS, 4)
    owner.trigger(BASE, 100, write=False)
    for _ in range(20):
        assert owner.busy
        assert owner.client.read32(3, Ext.DMA_COUNT) == 0
    assert owner.client.read32(3, Ext.HELD_LEFT) == 100
    owner.serve(Command.DMA_READ)
    assert not owner.busy
    assert owner.client.read32(0, Reg.DMASTATUS) == DmaStatus.OK
    assert owner.client.region_read(1, 0, 100) == DATA
    assert owner.client.read32(3, Ext.DMA_CRC32) == zlib.crc32(DATA)
    assert owner.last() == (0, 100)
    assert owner.abort() == (0, 0)


def test_write_of_more_than_a_message(client: RawClient, owner: Owner) -> None:
    content = bytes(range(256)) * 256
    client.region_write(1, 0, content)
    owner.trigger(BASE, len(content), write=True)
    owner.serve(Command.DMA_WRITE)
    assert not owner.busy
    assert owner.ram[: len(content)] == content
    assert owner.last() == (0, len(content))


def test_acknowledged_before_the_client_is_asked(owner: Owner) -> None:
    """QEMU quirk: a vCPU holds QEMU's lock until its access is answered."""
    owner.trigger(BASE, 4, write=False)  # returns: its reply came first
    assert owner.client.receive().header.command == Command.DMA_READ


def test_mapped_memory_is_done_before_the_acknowledgement(owner: Owner) -> None:
    owner.client.region_write(1, 0, DATA)
    owner.trigger(MAPPED, 100, write=True)
    assert not owner.busy
    assert owner.last() == (0, 100)
    assert owner.abort() == (0, 0)


def test_a_trigger_meanwhile_is_ignored_and_nothing_is_latched_anew(owner: Owner) -> None:
    owner.trigger(BASE, 100, write=False)
    owner.trigger(MAPPED, 4, write=False)
    owner.serve(Command.DMA_READ)
    assert not owner.busy
    assert owner.client.read32(3, Ext.DMA_COUNT) == 1
    assert owner.served == [(Command.DMA_READ, BASE, 100)]


@pytest.mark.parametrize("write", [False, True])
def test_what_the_client_refuses(owner: Owner, write: bool) -> None:
    owner.trigger(BASE, 100, write=write)
    command = Command.DMA_WRITE if write else Command.DMA_READ
    header, _, _ = owner.asked(command)
    owner.client.answer(header, error=errno.EFAULT)
    assert not owner.busy
    assert owner.client.read32(0, Reg.DMASTATUS) == DmaStatus.INTERNAL
    assert owner.last() == (DmaReason.CLIENT_ERROR, 0)
    assert owner.abort() == (DmaReason.CLIENT_ERROR, 0)


def reset(owner: Owner) -> None:
    owner.client.call(Command.DEVICE_RESET)


def function_level_reset(owner: Owner) -> None:
    owner.client.region_write(7, 0x48, struct.pack("<H", 1 << 15))


def bus_mastering_off(owner: Owner) -> None:
    owner.client.region_write(7, 4, b"\2\0")


def d3hot(owner: Owner) -> None:
    owner.client.region_write(7, 0x80, b"\x03")
    owner.client.region_write(7, 0x80, b"\x00")


ENDS = {
    reset: DmaReason.RESET,
    function_level_reset: DmaReason.RESET,
    bus_mastering_off: DmaReason.BUS_MASTER_OFF,
    d3hot: DmaReason.BUS_MASTER_OFF,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("write", [False, True])
def test_what_ends_it(owner: Owner, end: object, write: bool) -> None:
    """The client's answer, which comes late, changes nothing; the next DMA is served."""
    assert callable(end)
    owner.trigger(BASE, 100, write=write)
    command = Command.DMA_WRITE if write else Command.DMA_READ
    header, access, _ = owner.asked(command)
    end(owner)
    owner.client.decode()
    assert not owner.busy
    assert owner.abort() == (ENDS[end], 0)
    before = owner.client.read32(3, Ext.DMA_COUNT)
    owner.client.answer(header, access.pack() + (b"" if write else DATA))
    assert owner.client.region_read(1, 0, 100) == bytes(100)
    assert owner.client.read32(3, Ext.DMA_COUNT) == before
    owner.client.region_write(7, 4, b"\x06\x00")
    owner.trigger(BASE, 4, write=True)
    owner.serve(Command.DMA_WRITE)
    assert owner.last() == (0, 4)


def test_a_client_that_leaves(server: Path, memory: int) -> None:
    with RawClient(server) as client:
        owner = Owner(client, memory)
        owner.trigger(BASE, 100, write=False)
        owner.asked(Command.DMA_READ)
    with RawClient(server) as client:
        assert client.read32(0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK == 0
        assert client.read32(3, Ext.ABORT_REASON) == DmaReason.CLIENT_GONE
        again = Owner(client, memory)
        assert not again.busy
        again.trigger(BASE, 4, write=True)
        again.serve(Command.DMA_WRITE)
        assert again.last() == (0, 4)


def test_an_unmap_ends_what_was_not_asked_yet(client: RawClient, owner: Owner) -> None:
    client.write32(3, Ext.HOLD, 1)
    owner.trigger(BASE, 100, write=True)
    client.write32(3, Ext.STEP, 40)
    owner.serve(Command.DMA_WRITE)
    client.dma_unmap(BASE, SIZE)
    client.write32(3, Ext.STEP, 40)
    assert not owner.busy
    assert owner.abort() == (DmaReason.UNMAPPED, 40)


def test_steps(client: RawClient, owner: Owner) -> None:
    """A STEP while the client is asked is one more that is allowed; HOLD ends as ever."""
    client.region_write(1, 0, DATA)
    client.write32(3, Ext.HOLD, 1)
    owner.trigger(BASE, 100, write=True)
    client.write32(3, Ext.STEP, 10)
    client.write32(3, Ext.STEP, 20)
    owner.serve(Command.DMA_WRITE, 2)
    assert client.read32(3, Ext.HELD_MOVED) == 30
    client.write32(3, Ext.HOLD, 0)
    owner.serve(Command.DMA_WRITE)
    assert not owner.busy
    assert [count for *_, count in owner.served] == [10, 20, 70]
    assert owner.ram[:100] == DATA
    assert owner.last() == (0, 100)
    assert client.read32(3, Ext.DMA_CRC32) == zlib.crc32(DATA)


def test_atc_translates_what_only_the_client_reaches(client: RawClient, owner: Owner) -> None:
    place = 0x100
    while client.read32(7, place) & 0xFFFF != ATS:
        place = client.read32(7, place) >> 20
    client.region_write(7, place + 6, struct.pack("<H", 1 << 15))
    client.write32(0, Reg.DMA_BUS_ADDR_LO, BASE)
    client.write32(0, Reg.ATSCTL, AtsCtl.TRIGGER)
    assert client.read32(0, Reg.ATSCTL) & AtsCtl.SUCCESS
    owner.ram[:4] = b"data"
    owner.trigger(BASE, 4, write=False, control=DmaCtl.USE_ATC)
    owner.serve(Command.DMA_READ)
    assert owner.last() == (0, 4)
    client.dma_unmap(BASE, SIZE)
    assert client.read32(0, Reg.ATSCTL) & AtsCtl.INVALIDATED
    owner.trigger(BASE, 4, write=False, control=DmaCtl.USE_ATC)
    assert owner.last() == (DmaReason.NO_ATC_ENTRY, 0)


# The ring.


def test_ring(client: RawClient, owner: Owner) -> None:
    """Descriptors and data by messages, one transfer after the other; the interrupt at the end."""
    client.region_write(1, 0, DATA)
    owner.ring(
        [
            RingDescriptor(BASE, 10, 0, WRITE | CHAIN),
            RingDescriptor(MAPPED, 10, 10, WRITE | CHAIN),
            RingDescriptor(BASE + 20, 10, 20, WRITE),
            RingDescriptor(MAPPED, 10, 50, RingFlag(0)),
            RingDescriptor(BASE + 20, 10, 60, INTERRUPT),
        ]
    )
    assert owner.busy
    owner.serve(Command.DMA_READ)
    assert owner.completion() == (RingStatus.BUSY, 0)
    owner.serve(Command.DMA_WRITE, 2)
    assert owner.busy
    assert owner.completion() == (RingStatus.BUSY, 4), "what needs no message goes on at once"
    owner.serve(Command.DMA_READ)
    assert not owner.busy
    assert owner.completion() == (RingStatus.OK, 5)
    assert owner.ram[:30] == DATA[:10] + bytes(10) + DATA[20:30]
    assert client.region_read(1, 50, 20) == DATA[10:30]
    assert client.read32(3, Ext.RING_TRANSFERS) == 3
    assert client.read32(3, Ext.DMA_COUNT) == 3


def test_ring_transfer_is_refused_whole_before_anything_is_asked(owner: Owner) -> None:
    owner.ring([RingDescriptor(BASE, 4, 0, WRITE | CHAIN), RingDescriptor(HOLE, 4, 0, WRITE)])
    owner.serve(Command.DMA_READ)
    assert not owner.busy
    assert owner.completion() == (RingStatus.REFUSED, 0)
    assert owner.last() == (DmaReason.UNMAPPED, 0)


def test_doorbell_while_the_ring_is_busy(client: RawClient, owner: Owner) -> None:
    each = [RingDescriptor(BASE + 8 * index, 4, 0, WRITE) for index in range(3)]
    owner.ring(each)
    owner.ram[0x1060:0x1080] = RingDescriptor(BASE + 24, 4, 0, WRITE).pack()
    client.write32(3, Ext.RING_DOORBELL, 60)
    client.write32(3, Ext.RING_DOORBELL, 4)
    owner.serve(Command.DMA_READ)
    owner.serve(Command.DMA_WRITE, 3)
    owner.serve(Command.DMA_READ)
    owner.serve(Command.DMA_WRITE)
    assert owner.completion() == (RingStatus.OK, 4)
    reads = [access for access in owner.served if access[0] == Command.DMA_READ]
    assert [count for *_, count in reads] == [96, 32], "the last doorbell counts, and once"


def test_ring_that_is_turned_off_while_busy(client: RawClient, owner: Owner) -> None:
    owner.ring([RingDescriptor(BASE, 4, 0, WRITE)] * 3)
    owner.serve(Command.DMA_READ)
    client.write32(3, Ext.RING_CONTROL, 0)
    client.write32(3, Ext.RING_CONTROL, 1)
    owner.serve(Command.DMA_WRITE)
    assert not owner.busy
    assert owner.completion() == (RingStatus.DISABLED, 1)
    assert client.read32(3, Ext.RING_CONTROL) == 0
    client.write32(3, Ext.RING_DOORBELL, 3)
    assert owner.completion() == (RingStatus.DISABLED, 1)


@pytest.mark.parametrize("served", [0, 1, 2])
def test_bus_mastering_that_ends_ends_the_ring(
    client: RawClient, owner: Owner, served: int
) -> None:
    owner.ring([RingDescriptor(BASE, 4, 0, WRITE)] * 3)
    owner.serve(Command.DMA_READ, min(served, 1))
    owner.serve(Command.DMA_WRITE, max(served - 1, 0))
    bus_mastering_off(owner)
    assert not owner.busy
    assert owner.completion() == (RingStatus.ABORTED, max(served - 1, 0))
    if served:
        assert owner.last() == (DmaReason.BUS_MASTER_OFF, 0)
    client.region_write(7, 4, b"\x06\x00")
    assert client.read32(3, Ext.DMA_COUNT) == served, "nothing goes on by itself"


def test_ring_ends_with_a_reset(client: RawClient, owner: Owner) -> None:
    owner.ring([RingDescriptor(BASE, 4, 0, WRITE)] * 3)
    owner.serve(Command.DMA_READ)
    reset(owner)
    client.decode()
    assert not owner.busy
    assert owner.completion() == (RingStatus.OK, 0)
    client.write32(3, Ext.RING_DOORBELL, 1)
    assert owner.completion() == (RingStatus.DISABLED, 0)


def test_ring_and_register_dma_at_once(client: RawClient, owner: Owner) -> None:
    """Each has its own state; Transactions Pending is set until both are done."""
    owner.ring([RingDescriptor(BASE, 4, 0, WRITE)])
    owner.trigger(BASE + 8, 4, write=False)
    owner.serve(Command.DMA_READ)
    assert owner.completion()[0] == RingStatus.BUSY
    owner.serve(Command.DMA_READ)
    assert client.read32(0, Reg.DMACTL) & DmaCtl.TRIGGER_MASK == 0
    assert owner.busy
    owner.serve(Command.DMA_WRITE)
    assert not owner.busy
    assert client.read32(3, Ext.DMA_COUNT) == 2


def test_client_that_leaves_in_the_middle_of_a_ring(server: Path, memory: int) -> None:
    with RawClient(server) as client:
        owner = Owner(client, memory)
        owner.ring([RingDescriptor(BASE, 4, 0, WRITE)] * 40)
        owner.serve(Command.DMA_READ)
        owner.asked(Command.DMA_WRITE)
    with RawClient(server) as client:
        again = Owner(client, memory)
        assert not again.busy
        assert again.last() == (DmaReason.CLIENT_GONE, 0)


def test_registers_are_refused_nothing(owner: Owner) -> None:
    """A region that does not exist is still EINVAL while a DMA is owed."""
    owner.trigger(BASE, 4, write=False)
    with pytest.raises(Refused) as refused:
        owner.client.region_read(5, 0, 4)
    assert refused.value.errno == errno.EINVAL
    owner.serve(Command.DMA_READ)
