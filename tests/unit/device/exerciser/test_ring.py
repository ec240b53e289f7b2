# SPDX-License-Identifier: Apache-2.0
"""The descriptor ring: scatter-gather, order, bounds, and guests that mean harm."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.layout import (
    RING_BYTES_MAX,
    RING_REFUSED_REASON_SHIFT,
    RING_SIZE_MAX,
    DmaAttribute,
    DmaReason,
    DmaStatus,
    Ext,
    Reg,
    RingDescriptor,
    RingFlag,
    RingStatus,
)
from dma_rehearsal.device.trace import Trace
from tests.generated import examples
from tests.unit.device.exerciser.rings import RING, enable, lay, ring
from tests.unit.device.fakes import (
    BASE,
    READ_ONLY_BASE,
    SIZE,
    FakeClient,
    answer,
    read32,
    record,
    write32,
)

WRITE, CHAIN, INTERRUPT = RingFlag.WRITE_MEMORY, RingFlag.CHAIN, RingFlag.INTERRUPT


def last(exerciser: Exerciser) -> dict[str, int]:
    return record(exerciser, read32(exerciser, 3, Ext.DMA_COUNT))


def test_gathers_and_scatters(exerciser: Exerciser, client: FakeClient) -> None:
    client.ram[:12] = b"one two four"
    gather = [(8, 4, 3), (4, 3, 7), (0, 3, 0)]
    enable(exerciser, 16)
    lay(
        client,
        [
            *(RingDescriptor(BASE + at, length, offset, CHAIN) for at, length, offset in gather),
            RingDescriptor(BASE + 3, 0, 0, 0),
            RingDescriptor(BASE + 0x100, 5, 0, WRITE | CHAIN),
            RingDescriptor(BASE + 0x200, 5, 5, WRITE | INTERRUPT),
        ],
    )
    assert ring(exerciser, 6) == (RingStatus.OK, 6)
    assert exerciser.region_read(1, 0, 10) == b"onefourtwo"
    assert client.ram[0x100:0x105] + client.ram[0x200:0x205] == b"onefourtwo"
    assert client.interrupts == [(2, 3)]
    assert read32(exerciser, 3, Ext.RING_TRANSFERS) == 2
    found = record(exerciser, 1)
    assert (found["segments"], found["length"], found["moved"]) == (4, 10, 10)
    assert found["crc32"] == zlib.crc32(b"fourtwoone")
    assert found["attributes"] == DmaAttribute.RING
    assert last(exerciser)["crc32"] == zlib.crc32(b"onefourtwo")


def test_thousands_of_descriptors_round_and_round(exerciser: Exerciser, client: FakeClient) -> None:
    size = 3000
    enable(exerciser, size)
    lay(client, (RingDescriptor(BASE + i, 1, i, WRITE) for i in range(size)))
    exerciser.region_write(1, 0, bytes(i % 251 for i in range(size)))
    assert ring(exerciser, size - 1) == (RingStatus.OK, size - 1)
    assert ring(exerciser, size - 2) == (RingStatus.OK, size - 2), "it wraps"
    assert client.ram[:size] == bytes(i % 251 for i in range(size))
    assert read32(exerciser, 3, Ext.RING_TRANSFERS) == 2 * size - 2
    assert ring(exerciser, size - 2) == (RingStatus.OK, size - 2)
    assert read32(exerciser, 3, Ext.RING_TRANSFERS) == 2 * size - 2, "an empty ring does no work"


@pytest.mark.parametrize(
    ("size", "tail", "status"),
    [
        (0, 0, RingStatus.BAD_SIZE),
        (1, 0, RingStatus.BAD_SIZE),
        (RING_SIZE_MAX + 1, 1, RingStatus.BAD_SIZE),
        (0xFFFF_FFFF, 1, RingStatus.BAD_SIZE),
        (16, 16, RingStatus.BAD_INDEX),
        (16, 0xFFFF_FFFF, RingStatus.BAD_INDEX),
    ],
)
def test_sizes_and_indexes_out_of_range(
    exerciser: Exerciser, size: int, tail: int, status: RingStatus
) -> None:
    enable(exerciser, size)
    assert ring(exerciser, tail) == (status, 0)
    assert read32(exerciser, 3, Ext.DMA_COUNT) == 0


def test_off_until_enabled_and_after_a_reset(exerciser: Exerciser) -> None:
    assert ring(exerciser, 1) == (RingStatus.DISABLED, 0)
    enable(exerciser, 16)
    exerciser.device_reset()
    answer(exerciser)
    assert ring(exerciser, 1) == (RingStatus.DISABLED, 0)


def test_base_and_size_are_latched(exerciser: Exerciser, client: FakeClient) -> None:
    enable(exerciser, 4)
    lay(client, [RingDescriptor(BASE, 1, 0, WRITE)] * 4)
    assert ring(exerciser, 3) == (RingStatus.OK, 3)
    write32(exerciser, 3, Ext.RING_SIZE, 2)
    write32(exerciser, 3, Ext.RING_BASE_LO, 0)
    assert ring(exerciser, 2) == (RingStatus.OK, 2)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (0x4000_0000, DmaReason.UNMAPPED),
        (BASE + SIZE - 32, DmaReason.UNMAPPED),
        ((1 << 64) - 32, DmaReason.ADDRESS_WRAP),
    ],
)
def test_ring_that_cannot_be_read(exerciser: Exerciser, base: int, reason: DmaReason) -> None:
    enable(exerciser, 16, base)
    assert ring(exerciser, 2) == (RingStatus.UNREACHABLE, 0)
    found = last(exerciser)
    assert (found["reason"], found["moved"]) == (reason, 0)
    assert read32(exerciser, 0, Reg.DMASTATUS) == 0, "DMASTATUS is not the ring's"


REFUSED = {
    "unknown flag": ([RingDescriptor(BASE, 1, 0, 0x10)], DmaReason.BAD_DESCRIPTOR),
    "no bytes": ([RingDescriptor(BASE, 0, 0, 0)], DmaReason.BAD_DESCRIPTOR),
    "no bytes in two": (
        [RingDescriptor(BASE, 0, 0, WRITE | CHAIN), RingDescriptor(BASE, 0, 0, WRITE)],
        DmaReason.BAD_DESCRIPTOR,
    ),
    "never written": ([RingDescriptor(0, 0, 0, 0)], DmaReason.BAD_DESCRIPTOR),
    "directions that differ": (
        [RingDescriptor(BASE, 1, 0, CHAIN), RingDescriptor(BASE, 1, 0, WRITE)],
        DmaReason.BAD_DESCRIPTOR,
    ),
    "no end": ([RingDescriptor(BASE, 1, 0, CHAIN)] * 2, DmaReason.UNFINISHED_CHAIN),
    "past the buffer": ([RingDescriptor(BASE, 2, 0xFFFF, 0)], DmaReason.BUFFER_RANGE),
    "sum wraps": ([RingDescriptor(BASE, 0x40, 0xFFFF_FFE0, 0)], DmaReason.BUFFER_RANGE),
    "4 GiB in one": ([RingDescriptor(BASE, 0xFFFF_FFFF, 0, 0)], DmaReason.TRANSFER_SIZE),
    "hole in the middle": (
        [
            RingDescriptor(BASE, 8, 0, WRITE | CHAIN),
            RingDescriptor(0x4000_0000, 8, 0, WRITE | CHAIN),
            RingDescriptor(BASE + 8, 8, 0, WRITE),
        ],
        DmaReason.UNMAPPED,
    ),
    "read only": (
        [
            RingDescriptor(BASE, 8, 0, WRITE | CHAIN),
            RingDescriptor(READ_ONLY_BASE, 8, 0, WRITE),
        ],
        DmaReason.READ_ONLY,
    ),
    "wraps": ([RingDescriptor((1 << 64) - 4, 8, 0, WRITE)], DmaReason.ADDRESS_WRAP),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_whole_and_the_ring_halts(
    exerciser: Exerciser, client: FakeClient, case: str
) -> None:
    descriptors, reason = REFUSED[case]
    unfinished = reason is DmaReason.UNFINISHED_CHAIN
    count = 1 + len(descriptors) + (not unfinished)
    enable(exerciser, 16)
    exerciser.region_write(1, 0, b"inside the device")
    good = RingDescriptor(BASE + 0x200, 6, 0, WRITE)
    lay(client, [good, *descriptors])
    if not unfinished:
        lay(client, [RingDescriptor(BASE + 0x100, 6, 0, WRITE | INTERRUPT)], 1 + len(descriptors))
    for _ in range(2):
        assert ring(exerciser, count) == (RingStatus.REFUSED, 1)
    assert read32(exerciser, 3, Ext.RING_REFUSED) == reason << RING_REFUSED_REASON_SHIFT | 1
    assert (read32(exerciser, 3, Ext.RING_TRANSFERS), read32(exerciser, 3, Ext.DMA_COUNT)) == (1, 2)
    assert client.interrupts == ([] if unfinished else [(2, 3)]), "whoever waits for it wakes"
    found = record(exerciser, 2)
    assert (found["reason"], found["moved"]) == (reason, 0)
    assert found["status"] == (
        DmaStatus.RANGE if reason is DmaReason.BUFFER_RANGE else DmaStatus.INTERNAL
    )
    assert client.ram[:0x200] == bytes(0x200), "neither it nor what is behind it"
    lay(client, [RingDescriptor(BASE + 0x300, 6, 0, WRITE)])
    write32(exerciser, 3, Ext.RING_CONTROL, 1)
    assert ring(exerciser, 1) == (RingStatus.REFUSED, 1), "it was not turned off"
    enable(exerciser, 16)
    assert read32(exerciser, 3, Ext.RING_REFUSED) == 0
    assert ring(exerciser, 1) == (RingStatus.OK, 1)
    assert client.ram[0x200:0x206] == client.ram[0x300:0x306] == b"inside"


def test_refused_at_the_end_of_the_index(exerciser: Exerciser, client: FakeClient) -> None:
    enable(exerciser, 4)
    lay(client, [RingDescriptor(BASE, 1, 0, WRITE)] * 3 + [RingDescriptor(0, 1, 0, WRITE)])
    assert ring(exerciser, 3) == (RingStatus.OK, 3)
    assert ring(exerciser, 1) == (RingStatus.REFUSED, 3)
    assert read32(exerciser, 3, Ext.RING_REFUSED) == 3 | DmaReason.UNMAPPED << 16
    assert client.interrupts == [], "nobody asked for one"
    exerciser.device_reset()
    answer(exerciser)
    assert read32(exerciser, 3, Ext.RING_REFUSED) == 0
    assert ring(exerciser, 1) == (RingStatus.DISABLED, 0)


def test_constraint_on_the_number_of_segments(exerciser: Exerciser, client: FakeClient) -> None:
    enable(exerciser, 16)
    write32(exerciser, 3, Ext.MAX_SEGMENTS, 2)
    chain = [RingDescriptor(BASE, 1, 0, CHAIN), RingDescriptor(BASE, 1, 0, 0)]
    lay(client, [*chain, chain[0], *chain])
    assert ring(exerciser, 5) == (RingStatus.REFUSED, 2)
    assert [record(exerciser, number)["reason"] for number in (1, 2)] == [
        DmaReason.NONE,
        DmaReason.MAX_SEGMENTS,
    ]


def test_bytes_of_a_doorbell_are_bounded(exerciser: Exerciser, client: FakeClient) -> None:
    largest = len(exerciser.buffer)
    fits = RING_BYTES_MAX // largest
    enable(exerciser, 2048)
    lay(client, [RingDescriptor(BASE, largest, 0, 0)] * (fits + 10))
    assert ring(exerciser, fits + 10) == (RingStatus.BUDGET, fits)
    assert ring(exerciser, fits + 10) == (RingStatus.OK, fits + 10)


def test_ring_that_points_at_itself(exerciser: Exerciser, client: FakeClient) -> None:
    """The device writes descriptors over the ones that it is about to run: it has its copy."""
    enable(exerciser, 8)
    evil = RingDescriptor(BASE + 0x500, 4, 0, WRITE).pack()
    exerciser.region_write(1, 0, b"evil" + bytes(28) + evil * 7)
    lay(
        client,
        [
            RingDescriptor(RING + 32, 7 * 32, 32, WRITE),
            *(RingDescriptor(BASE + 8 * i, 4, 0, WRITE) for i in range(1, 4)),
        ],
    )
    assert ring(exerciser, 4) == (RingStatus.OK, 4)
    assert client.ram[0x500:0x504] == bytes(4)
    assert client.ram[8:12] == client.ram[24:28] == b"evil"
    assert ring(exerciser, 5) == (RingStatus.OK, 5)
    assert client.ram[0x500:0x504] == b"evil", "what it wrote is run when it is asked for"


def test_each_descriptor_is_read_once(
    exerciser: Exerciser, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is another one at each read: a second look would see another descriptor."""
    enable(exerciser, 4)
    sound, reads = client.memory, []

    def memory(address: int, length: int, *, write: bool) -> list[memoryview]:
        if RING <= address < RING + 4 * 32:
            reads.append((address, length))
            lengths = 4 if len(reads) == 1 else 0xFFFF_FFFF
            return [memoryview(RingDescriptor(BASE, lengths, 0, WRITE).pack() * (length // 32))]
        return sound(address, length, write=write)

    monkeypatch.setattr(client, "memory", memory)
    assert ring(exerciser, 3) == (RingStatus.OK, 3)
    assert reads == [(RING, 96)]
    assert [record(exerciser, n)["length"] for n in (1, 2, 3)] == [4, 4, 4]


def test_bus_mastering_off(exerciser: Exerciser) -> None:
    enable(exerciser, 4)
    exerciser.region_write(7, 4, b"\2\0")
    assert ring(exerciser, 1) == (RingStatus.UNREACHABLE, 0)
    assert last(exerciser)["reason"] == DmaReason.BUS_MASTER_OFF


descriptors = st.builds(
    RingDescriptor,
    st.integers(BASE - 64, BASE + 1024) | st.integers(0, (1 << 64) - 1),
    st.integers(0, 300) | st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 300) | st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 15) | st.integers(0, 0xFFFF_FFFF),
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(descriptors, min_size=8, max_size=8),
    st.lists(st.integers(0, 9), max_size=6),
    st.integers(0, 10),
)
def test_any_ring(content: list[RingDescriptor], doorbells: list[int], size: int) -> None:
    """Any memory gives a status and an index in range, and raises nothing."""
    exerciser, client = Exerciser(Trace(), buffer_size=4096), FakeClient()
    exerciser.attach(client)
    exerciser.region_write(7, 4, b"\x06\x00")
    lay(client, content)
    enable(exerciser, size)
    for tail in doorbells:
        status, completion = ring(exerciser, tail)
        assert status in RingStatus.__members__.values()
        assert completion < max(size, 1)
