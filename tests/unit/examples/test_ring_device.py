# SPDX-License-Identifier: Apache-2.0
"""The device of the zoo's drivers: jobs, rings, refusals, and what a hostile driver can do."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, read32, start, write32
from tests.vm.zoo import ring_device
from tests.vm.zoo.ring_device import (
    COMPLETION,
    MAGIC,
    MEMORY_SIZE,
    SEGMENT,
    Descriptor,
    DescriptorFlag,
    Operation,
    Reg,
    RingDevice,
    State,
    Vector,
)

HEADER = Path(ring_device.__file__).parent / "drivers" / "ring_device.h"
MSIX = 2  # Irq.MSIX, as the fake client lists it
RECORD, INTERRUPT, SOURCE_LIST, TARGET_LIST = 1 << 8, 1 << 9, 1 << 4, 1 << 5
OWN_LAST = DescriptorFlag.OWN | DescriptorFlag.LAST


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


@pytest.fixture
def device(client: FakeClient, trace: Path) -> Iterator[RingDevice]:
    events = Trace(trace)
    made = RingDevice(events)
    made.attach(client)
    start(made)
    yield made
    events.close()


def write64(device: RingDevice, low: Reg, value: int) -> None:
    write32(device, 0, low, value)
    write32(device, 0, low + 4, value >> 32)


def job(
    device: RingDevice,
    doorbell: int,
    length: int,
    *,
    source: int = 0,
    target: int = 0,
    segments: int = 0,
) -> tuple[int, int]:
    """Run a job; return its state and the reason of a refusal."""
    write64(device, Reg.JOB_SOURCE_LO, source)
    write64(device, Reg.JOB_TARGET_LO, target)
    write32(device, 0, Reg.JOB_LENGTH, length)
    write32(device, 0, Reg.JOB_SEGMENTS, segments)
    write32(device, 0, Reg.JOB_DOORBELL, doorbell)
    status = read32(device, 0, Reg.JOB_STATUS)
    return status & 7, status >> 8


DONE, BAD = (State.DONE, 0), (State.BAD, 0)


def refused(reason: DmaReason) -> tuple[int, int]:
    return State.REFUSED, reason


class Rings:
    """Two rings of four descriptors in the client's memory, and buffers behind them."""

    tx, rx, out, into = BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x8000

    def __init__(self, device: RingDevice, client: FakeClient) -> None:
        self.device, self.client = device, client
        for base, size, where in (
            (Reg.TX_BASE_LO, Reg.TX_SIZE, self.tx),
            (Reg.RX_BASE_LO, Reg.RX_SIZE, self.rx),
        ):
            write64(device, base, where)
            write32(device, 0, size, 4)

    def put(self, ring: int, slot: int, descriptor: Descriptor) -> None:
        at = ring - BASE + slot * 16
        self.client.ram[at : at + 16] = descriptor.pack()

    def get(self, ring: int, slot: int) -> Descriptor:
        at = ring - BASE + slot * 16
        return Descriptor.unpack(bytes(self.client.ram[at : at + 16]))

    def ready(self, slots: int, length: int = 256) -> None:
        """Give the device RX buffers."""
        for slot in range(slots):
            self.put(self.rx, slot, Descriptor(self.into + slot * 256, length, DescriptorFlag.OWN))
        write32(self.device, 0, Reg.RX_TAIL, slots)

    def send(self, tail: int) -> None:
        write32(self.device, 0, Reg.TX_TAIL, tail)


@pytest.fixture
def rings(device: RingDevice, client: FakeClient) -> Rings:
    return Rings(device, client)


def test_the_c_header_has_the_same_layout() -> None:
    text = HEADER.read_text()
    defined = {
        name: int(value, 0) for name, value in re.findall(r"#define RING_(\w+)\s+(\w+)\n", text)
    } | {
        name: 1 << int(bit) for name, bit in re.findall(r"#define RING_(\w+)\s+BIT\((\d+)\)", text)
    }
    groups: dict[str, type[IntEnum]] = {
        "": Reg, "JOB_": Operation, "STATE_": State, "VECTOR_": Vector
    }  # fmt: skip
    for prefix, group in groups.items():
        named = {
            f"{prefix}{each.name}": each.value
            for each in group
            if each.name != "NONE" and not each.name.startswith("RESERVED")
        }
        assert {name: defined.get(name) for name in named} == named
    assert defined["MAGIC"] == MAGIC
    identity = RingDevice.identity
    assert (defined["VENDOR_ID"], defined["DEVICE_ID"]) == (identity.vendor_id, identity.device_id)
    assert {each.name: defined[str(each.name)] for each in DescriptorFlag} == {
        each.name: each.value for each in DescriptorFlag
    }


def test_a_job_keeps_data_and_gives_it_back(device: RingDevice, client: FakeClient) -> None:
    data = bytes(range(200))
    client.ram[:200] = data
    assert job(device, Operation.LOAD, 200, source=BASE) == DONE
    assert read32(device, 0, Reg.JOB_RESULT) == zlib.crc32(data)
    assert job(device, Operation.STORE, 200, target=BASE + 0x1000) == DONE
    assert client.ram[0x1000:0x10C8] == data
    assert client.interrupts == []


def test_a_record_is_there_before_the_interrupt(device: RingDevice, client: FakeClient) -> None:
    write64(device, Reg.JOB_COMPLETION_LO, BASE + 0x2000)
    write32(device, 0, Reg.JOB_COOKIE, 77)
    assert job(device, Operation.CHECKSUM | RECORD | INTERRUPT, 5, source=BASE) == DONE
    record = COMPLETION.unpack(bytes(client.ram[0x2000:0x2010]))
    assert record == (77, State.DONE, zlib.crc32(bytes(5)), 1)
    assert client.interrupts == [(MSIX, Vector.JOB)]


def test_segments(device: RingDevice, client: FakeClient) -> None:
    client.ram[0x100:0x103], client.ram[0x300:0x302] = b"abc", b"de"
    client.ram[:32] = SEGMENT.pack(BASE + 0x100, 3, 0) + SEGMENT.pack(BASE + 0x300, 2, 0)
    assert job(device, Operation.LOAD | SOURCE_LIST, 5, source=BASE, segments=2) == DONE
    assert bytes(device.store[:5]) == b"abcde"
    assert job(device, Operation.INVERT | TARGET_LIST, 5, target=BASE, segments=2 << 16) == DONE
    assert client.ram[0x100:0x103] == bytes(each ^ 0xFF for each in b"abc")
    assert job(device, Operation.LOAD | SOURCE_LIST, 6, source=BASE, segments=2) == BAD
    client.ram[8:12] = bytes(4)
    assert job(device, Operation.LOAD | SOURCE_LIST, 5, source=BASE, segments=2) == refused(
        DmaReason.BAD_DESCRIPTOR
    )


@pytest.mark.parametrize(
    ("doorbell", "length", "segments"),
    [
        (Operation.CHECKSUM, 0, 0),
        (Operation.CHECKSUM, ring_device.JOB_MAX + 1, 0),
        (Operation.RESERVED_6, 4, 0),
        (Operation.RESERVED_7, 4, 0),
        (Operation.CHECKSUM | SOURCE_LIST, 4, 0),
        (Operation.CHECKSUM | SOURCE_LIST, 4, ring_device.SEGMENTS_MAX + 1),
    ],
)
def test_bad_jobs(device: RingDevice, doorbell: int, length: int, segments: int) -> None:
    assert job(device, doorbell, length, source=BASE, segments=segments) == BAD


def test_the_end_of_the_devices_memory(device: RingDevice) -> None:
    write32(device, 0, Reg.JOB_SECTOR, MEMORY_SIZE // 512 - 1)
    assert job(device, Operation.LOAD, 512, source=BASE) == DONE
    assert job(device, Operation.LOAD, 513, source=BASE) == BAD
    assert len(device.store) == MEMORY_SIZE


def test_refusals(device: RingDevice) -> None:
    assert job(device, Operation.CHECKSUM, 4, source=0) == refused(DmaReason.UNMAPPED)
    write32(device, 0, Reg.CONTROL, 2)
    for address in (1 << 32, (1 << 32) - 2):
        outcome = job(device, Operation.CHECKSUM, 4, source=address)
        assert outcome == refused(DmaReason.ADDRESS_BITS)
    assert job(device, Operation.CHECKSUM, 4, source=BASE) == DONE
    device.region_write(7, 4, b"\2\0")
    assert job(device, Operation.CHECKSUM, 4, source=BASE) == refused(DmaReason.BUS_MASTER_OFF)


def test_a_frame_comes_back(rings: Rings, client: FakeClient) -> None:
    rings.ready(2)
    client.ram[0x2000:0x2004], client.ram[0x2100:0x2102] = b"fram", b"es"
    rings.put(rings.tx, 0, Descriptor(rings.out, 4, DescriptorFlag.OWN))
    rings.put(rings.tx, 1, Descriptor(rings.out + 0x100, 2, OWN_LAST))
    rings.send(2)
    assert client.ram[0x8000:0x8006] == b"frames"
    assert rings.get(rings.rx, 0) == Descriptor(rings.into, 6, DescriptorFlag.LAST)
    assert [rings.get(rings.tx, slot).flags for slot in (0, 1)] == [0, DescriptorFlag.LAST]
    assert client.interrupts == [(MSIX, Vector.TX), (MSIX, Vector.RX)]


def test_a_frame_without_a_buffer_is_dropped(rings: Rings, device: RingDevice) -> None:
    rings.put(rings.tx, 0, Descriptor(rings.out, 4, OWN_LAST))
    rings.send(1)
    assert read32(device, 0, Reg.RX_DROPPED) == 1


@pytest.mark.parametrize(
    "sent",
    [Descriptor(Rings.out, 0, OWN_LAST), Descriptor(0, 4, OWN_LAST)],
    ids=["without bytes", "not mapped"],
)
def test_an_error_is_in_the_descriptor(rings: Rings, sent: Descriptor) -> None:
    rings.put(rings.tx, 0, sent)
    rings.send(1)
    assert rings.get(rings.tx, 0).flags == DescriptorFlag.ERROR | DescriptorFlag.LAST


def test_a_frame_that_is_too_long_for_its_buffer(rings: Rings, client: FakeClient) -> None:
    rings.ready(1, length=3)
    rings.put(rings.tx, 0, Descriptor(rings.out, 4, OWN_LAST))
    rings.send(1)
    assert rings.get(rings.rx, 0).flags == DescriptorFlag.ERROR
    assert client.ram[0x8000:0x8004] == bytes(4)


def test_a_descriptor_that_is_not_its_own_stops_the_ring(
    rings: Rings, device: RingDevice, client: FakeClient, trace: Path
) -> None:
    rings.put(rings.tx, 0, Descriptor(rings.out, 4, DescriptorFlag.LAST))
    rings.send(1)
    assert read32(device, 0, Reg.TX_HEAD) == 0
    assert client.interrupts == []
    assert '"reason": "BAD_DESCRIPTOR"' in trace.read_text()


def test_a_full_ring_ends(rings: Rings, device: RingDevice) -> None:
    write32(device, 0, Reg.TX_SIZE, 0xFFFF_FFFF)
    assert read32(device, 0, Reg.TX_SIZE) == ring_device.RING_MAX
    for slot in range(ring_device.RING_MAX):
        rings.put(rings.tx, slot, Descriptor(rings.out, 1, DescriptorFlag.OWN))
    rings.send(ring_device.RING_MAX - 1)
    assert read32(device, 0, Reg.TX_HEAD) == ring_device.RING_MAX - 1


def test_the_heartbeat_waits_for_bus_mastering(device: RingDevice, client: FakeClient) -> None:
    device.region_write(7, 4, b"\2\0")
    write64(device, Reg.HEARTBEAT_LO, BASE)
    write32(device, 0, Reg.HEARTBEAT_CONTROL, 1)
    assert bytes(client.ram[:8]) == bytes(8)
    device.region_write(7, 4, b"\6\0")
    assert struct.unpack("<Q", client.ram[:8]) == (1,)
    write32(device, 0, Reg.CONTROL, 1)
    assert read32(device, 0, Reg.HEARTBEAT_CONTROL) == 0
