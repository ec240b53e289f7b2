# SPDX-License-Identifier: Apache-2.0
"""The device of a profile: strict limits, what a sloppy one does, modelled time and coherence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.faults.injector import FaultInjector
from dma_rehearsal.device.layout import DmaAttribute, DmaReason, Ext, ProfileFlag, Reg
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.trace import Trace
from tests.unit.device.fakes import BASE, FakeClient, answer, dma, read32, record, write32


def device(client: FakeClient, **values: Any) -> Exerciser:
    """Return a device with these keys of a profile, and bus mastering on."""
    return attached(Exerciser(Trace(), profile=profile.parse(values, "mine")), client)


def attached(made: Exerciser, client: FakeClient) -> Exerciser:
    made.attach(client)
    made.region_write(7, 4, b"\x06\x00")
    return made


TIGHTEN = [
    (Ext.ADDRESS_BITS, "address_bits", 32, [(24, 24), (40, 32), (0, 32)]),
    (Ext.ALIGNMENT, "alignment", 8, [(64, 64), (4, 8), (12, 8), (0, 8)]),
    (Ext.LENGTH_ALIGNMENT, "length_alignment", 4, [(8, 8), (2, 4), (0, 4)]),
    (Ext.MAX_SEGMENT, "max_segment", 4096, [(512, 512), (4097, 4096), (0, 4096)]),
    (Ext.BOUNDARY, "boundary", 65536, [(4096, 4096), (98304, 65536), (3000, 65536), (0, 65536)]),
    (Ext.MAX_SEGMENTS, "max_segments", 4, [(2, 2), (5, 4), (0, 4)]),
    (Ext.MAX_TRANSFER, "max_transfer", 8192, [(100, 100), (8193, 8192), (0, 8192)]),
]


@pytest.mark.parametrize(("register", "key", "own", "writes"), TIGHTEN, ids=lambda v: str(v))
def test_software_can_only_tighten(
    client: FakeClient, register: Ext, key: str, own: int, writes: list[tuple[int, int]]
) -> None:
    made = device(client, **{key: own})
    assert read32(made, 3, register) == own
    for value, kept in writes:
        write32(made, 3, register, value)
        assert read32(made, 3, register) == kept
    write32(made, 3, register, writes[0][0])
    made.device_reset()
    answer(made)
    assert read32(made, 3, register) == own


def test_boundary_of_4_gib_gives_way_to_a_tighter_one(client: FakeClient) -> None:
    made = device(client, boundary=1 << 32)
    write32(made, 3, Ext.BOUNDARY, 4096)
    assert (read32(made, 3, Ext.BOUNDARY), read32(made, 3, Ext.BOUNDARY_HI)) == (4096, 0)
    write32(made, 3, Ext.BOUNDARY, 0)
    assert (read32(made, 3, Ext.BOUNDARY), read32(made, 3, Ext.BOUNDARY_HI)) == (0, 1)
    assert dma(made, (1 << 32) - 8, 16, write=False)["reason"] == DmaReason.BOUNDARY


STRICT = [
    ({"address_bits": 24}, BASE, 16, 0),
    ({"address_bits": 24}, (1 << 24) - 8, 16, DmaReason.ADDRESS_BITS),
    ({"address_bits": 24}, BASE + (1 << 24), 16, DmaReason.ADDRESS_BITS),
    ({"address_bits": 64}, BASE, 16, 0),
    ({"alignment": 8}, BASE + 4, 16, DmaReason.ALIGNMENT),
    ({"length_alignment": 4}, BASE + 1, 16, 0),
    ({"length_alignment": 4}, BASE, 18, DmaReason.LENGTH_ALIGNMENT),
    ({"max_segment": 64}, BASE, 64, 0),
    ({"max_segment": 64}, BASE, 65, DmaReason.MAX_SEGMENT),
    ({"max_transfer": 64}, BASE, 65, DmaReason.MAX_TRANSFER),
    ({"boundary": 0x1_0000}, BASE + 0xFFF0, 16, 0),
    ({"boundary": 0x1_0000}, BASE + 0xFFF0, 17, DmaReason.BOUNDARY),
]


@pytest.mark.parametrize(("values", "address", "length", "reason"), STRICT)
def test_strict_device_refuses_and_moves_nothing(
    client: FakeClient, values: dict[str, Any], address: int, length: int, reason: int
) -> None:
    made = device(client, **values)
    before = bytes(client.ram)
    made.region_write(1, 0, b"x" * length)
    found = dma(made, address, length, write=True)
    assert (found["reason"], found["moved"]) == (reason, 0 if reason else length)
    assert found["used_lo"] == (0 if reason else address)
    if reason:
        assert client.ram == before


def ring(made: Exerciser, client: FakeClient, *places: tuple[int, int]) -> dict[str, int]:
    """Run one transfer of these segments (address, bytes) and return its record."""
    base, offset = BASE + 0x3_0000, 0
    for index, (address, length) in enumerate(places):
        chain = 2 if index < len(places) - 1 else 0
        words = (address & 0xFFFFFFFF, address >> 32, length, offset, chain)
        data = b"".join(word.to_bytes(4, "little") for word in words).ljust(32, b"\0")
        client.ram[base - BASE + 32 * index : base - BASE + 32 * index + 32] = data
        offset += length
    for register, value in (
        *((Ext.RING_CONTROL, 0), (Ext.RING_BASE_LO, base), (Ext.RING_SIZE, 64)),
        *((Ext.RING_CONTROL, 1), (Ext.RING_DOORBELL, len(places))),
    ):
        write32(made, 3, register, value)
    return record(made, read32(made, 3, Ext.DMA_COUNT))


PRP = [
    (((BASE + 0x10, 0x20),), 0),
    (((BASE + 0xF00, 0x100), (BASE + 0x4000, 0x1000), (BASE + 0x2000, 4)), 0),
    (((BASE + 0xF00, 0x80), (BASE + 0x4000, 0x1000)), DmaReason.PRP),  # a gap
    (((BASE + 0xF00, 0x100), (BASE + 0x4004, 0x10)), DmaReason.PRP),  # in the midst of a page
    (((BASE, 0x1000), (BASE + 0x4000, 0x800), (BASE + 0x2000, 4)), DmaReason.PRP),
    (((BASE + 0xF02, 0x10),), DmaReason.ALIGNMENT),
    (((BASE + 0xF00, 0x104),), DmaReason.BOUNDARY),
]


@pytest.mark.parametrize(("places", "reason"), PRP)
def test_prp(client: FakeClient, places: tuple[tuple[int, int], ...], reason: int) -> None:
    made = device(client, rule="prp", boundary=4096, alignment=4)
    assert ring(made, client, *places)["reason"] == reason


def test_limits_of_a_transfer_in_segments(client: FakeClient) -> None:
    made = device(client, max_segments=2, max_transfer=128)
    assert ring(made, client, (BASE, 64), (BASE + 256, 64))["reason"] == 0
    assert ring(made, client, (BASE, 64), (BASE + 256, 65))["reason"] == DmaReason.MAX_TRANSFER
    assert ring(made, client, *[(BASE, 1)] * 3)["reason"] == DmaReason.MAX_SEGMENTS


def test_descriptors_beyond_the_address_bits_are_not_fetched(client: FakeClient) -> None:
    made = device(client, address_bits=24)
    write32(made, 3, Ext.RING_BASE_HI, 1)
    for register, value in (
        *((Ext.RING_BASE_LO, BASE), (Ext.RING_SIZE, 64)),
        *((Ext.RING_CONTROL, 1), (Ext.RING_DOORBELL, 1)),
    ):
        write32(made, 3, register, value)
    found = record(made, read32(made, 3, Ext.DMA_COUNT))
    assert found["reason"] == DmaReason.ADDRESS_BITS


# Sloppy.


def test_sloppy_device_cuts_the_address_and_says_where_it_went(client: FakeClient) -> None:
    made = device(client, address_bits=24, sloppy=True)
    made.region_write(1, 0, b"corrupt!")
    found = dma(made, BASE + 64 + (3 << 24), 8, write=True)
    assert client.ram[64:72] == b"corrupt!"
    assert (found["reason"], found["moved"]) == (0, 8)
    assert found["address_lo"] == BASE + 64 + (3 << 24)
    assert found["used_lo"] == BASE + 64


def test_sloppy_device_wraps_within_its_boundary(client: FakeClient) -> None:
    made = device(client, boundary=0x1_0000, sloppy=True)
    made.region_write(1, 0, bytes(range(1, 33)))
    before = bytes(client.ram)
    found = dma(made, BASE + 0x1_FFF0, 32, write=True)
    assert found["moved"] == 32
    assert client.ram[0x1_FFF0:0x2_0000] == bytes(range(1, 17))
    assert client.ram[0x1_0000:0x1_0010] == bytes(range(17, 33))
    assert client.ram[0x2_0000:0x2_0010] == before[0x2_0000:0x2_0010], "where it should have gone"


def test_sloppy_read_wraps_more_than_once(client: FakeClient) -> None:
    made = device(client, boundary=1024, sloppy=True)
    client.ram[:1024] = bytes(index % 251 for index in range(1024))
    block = bytes(client.ram[:1024])
    assert dma(made, BASE + 1000, 2100, write=False)["moved"] == 2100
    assert made.region_read(1, 0, 2100) == (block[1000:] + block * 3)[:2100]


def test_sloppy_device_drops_the_low_address_bits(client: FakeClient) -> None:
    made = device(client, alignment=8, sloppy=True)
    client.ram[:16] = b"0123456789abcdef"
    assert dma(made, BASE + 5, 8, write=False)["used_lo"] == BASE
    assert made.region_read(1, 0, 8) == b"01234567"


def test_sloppy_device_held_in_flight_goes_to_the_same_places(client: FakeClient) -> None:
    made = device(client, boundary=0x1_0000, address_bits=24, sloppy=True)
    made.region_write(1, 0, bytes(range(1, 33)))
    write32(made, 3, Ext.HOLD, 1)
    dma(made, BASE + 0xFFF0 + (1 << 24), 32, write=True)
    for _ in range(8):
        write32(made, 3, Ext.STEP, 5)
    assert client.ram[0xFFF0:0x1_0000] == bytes(range(1, 17))
    assert client.ram[:16] == bytes(range(17, 33))
    found = record(made, 1)
    assert (found["moved"], found["used_lo"]) == (32, BASE + 0xFFF0)


def test_what_software_tightened_is_strict_in_a_sloppy_device(client: FakeClient) -> None:
    made = device(client, address_bits=32, boundary=0x1_0000, sloppy=True)
    write32(made, 3, Ext.ADDRESS_BITS, 20)
    assert dma(made, BASE, 8, write=False)["reason"] == DmaReason.ADDRESS_BITS
    write32(made, 3, Ext.ADDRESS_BITS, 0)
    write32(made, 3, Ext.BOUNDARY, 4096)
    assert dma(made, BASE + 4092, 8, write=False)["reason"] == DmaReason.BOUNDARY


def test_trace_names_asked_and_used(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = Trace(path)
    values = {"address_bits": 24, "sloppy": True, "latency_ns": 5}
    made = attached(Exerciser(trace, profile=profile.parse(values, "mine")), client)
    dma(made, BASE + (1 << 24), 8, write=False)
    trace.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    (found,) = [each for each in events if each["event"] == "dma"]
    assert (found["address"], found["used"]) == (hex(BASE + (1 << 24)), hex(BASE))
    assert found["modelled_ns"] == 5


# Time and coherence.


@pytest.mark.parametrize(
    ("values", "length", "due"),
    [
        ({}, 1000, 0),
        ({"latency_ns": 700}, 1000, 700),
        ({"latency_ns": 700, "bandwidth_mb_s": 100}, 1000, 700 + 10_000),
        ({"bandwidth_mb_s": 3000}, 1, 1),
        ({"latency_ns": 1_000_000_000, "bandwidth_mb_s": 1}, 65536, 1_000_000_000 + 65_536_000),
    ],
)
def test_modelled_time(client: FakeClient, values: dict[str, Any], length: int, due: int) -> None:
    found = dma(device(client, **values), BASE, length, write=True)
    assert found["moved"] == length
    assert read64(device(client, **values), length) == due


def read64(made: Exerciser, length: int) -> int:
    dma(made, BASE, length, write=True)
    write32(made, 3, Ext.RECORD_SELECT, read32(made, 3, Ext.DMA_COUNT))
    return read32(made, 3, Ext.RECORD_TIME_LO) | read32(made, 3, Ext.RECORD_TIME_HI) << 32


def test_refused_dma_takes_no_modelled_time(client: FakeClient) -> None:
    made = device(client, address_bits=24, latency_ns=700)
    dma(made, 1 << 24, 8, write=True)
    write32(made, 3, Ext.RECORD_SELECT, 1)
    assert read32(made, 3, Ext.RECORD_TIME_LO) == 0


@pytest.mark.parametrize("coherent", [True, False])
def test_dma_that_no_cache_follows_says_so(client: FakeClient, coherent: bool) -> None:
    made = device(client, coherent=coherent)
    found = dma(made, BASE, 8, write=True)
    assert bool(found["attributes"] & DmaAttribute.NON_COHERENT) is not coherent
    assert bool(read32(made, 3, Ext.PROFILE) & ProfileFlag.COHERENT) is coherent


def test_identity_is_the_profiles(client: FakeClient) -> None:
    made = device(
        client,
        vendor=0x1022,
        device=0x2000,
        **{"class": 0x020000},
        revision=7,
        subsystem_vendor=0xABCD,
        subsystem=0x4321,
    )
    assert made.region_read(7, 0, 4) == bytes.fromhex("22100020")
    assert made.region_read(7, 8, 4) == bytes.fromhex("07000002")
    assert made.region_read(7, 0x2C, 4) == bytes.fromhex("cdab2143")
    assert read32(made, 0, Reg.DMACTL) == 0


# Faults.


@pytest.mark.parametrize(
    ("fault", "key", "value", "address", "place"),
    [
        ("mask-not-honoured", "address_bits", 24, BASE + (1 << 24), None),
        ("address-wrapped", "address_bits", 24, BASE + (1 << 24), 0),
        ("boundary-crossed", "boundary", 4096, BASE + 4092, 4092),
    ],
)
def test_fault_lets_just_its_limit_be_broken(
    client: FakeClient, fault: str, key: str, value: int, address: int, place: int | None
) -> None:
    """The fault breaks one limit, and the others hold."""
    values = {"max_segment": 64, key: value}
    made = attached(Exerciser(Trace(), profile=profile.parse(values, "mine")), client)
    FaultInjector([made], Platform(Trace())).set(fault)
    made.region_write(1, 0, b"corrupt!")
    found = dma(made, address, 8, write=True)
    assert found["reason"] == (DmaReason.UNMAPPED if place is None else DmaReason.NONE)
    if place is not None:
        assert client.ram[place : place + 8] == b"corrupt!"
    assert dma(made, BASE, 65, write=True)["reason"] == DmaReason.MAX_SEGMENT
    assert dma(device(client, **values), address, 8, write=True)["reason"] == DmaReason[key.upper()]
