# SPDX-License-Identifier: Apache-2.0
"""REGION_READ, REGION_WRITE, REGION_WRITE_MULTI: ranges, sizes, order."""

from __future__ import annotations

import errno
import struct

import pytest

from dma_rehearsal.device.layout import EXT_MAGIC, Ext, Reg
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import Command
from tests.unit.vfio_user.client import RawClient, Refused

CONTROL, BUFFER, EXTENSION, CONFIG = 0, 1, 3, 7


def test_config_space_identifies_the_exerciser(client: RawClient) -> None:
    assert client.region_read(CONFIG, 0, 4) == b"\xb5\x13\x01\xed"


def test_register(client: RawClient) -> None:
    client.write32(CONTROL, Reg.DMA_LEN, 0x1234_5678)
    assert client.read32(CONTROL, Reg.DMA_LEN) == 0x1234_5678
    assert client.read32(EXTENSION, Ext.MAGIC) == EXT_MAGIC


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 64, 4096, 65536])
def test_buffer_at_any_width(client: RawClient, size: int) -> None:
    data = bytes(index * 7 % 256 for index in range(size))
    client.region_write(BUFFER, 0x10000 - size, data)
    assert client.region_read(BUFFER, 0x10000 - size, size) == data


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [
        (CONTROL, 0, 0),
        (CONTROL, 0x1000, 1),
        (CONTROL, 0xFFF, 2),
        (CONTROL, 0x1000, 0),
        (BUFFER, 0, 0x10001),
        (BUFFER, (1 << 64) - 1, 1),
        (BUFFER, (1 << 64) - 4, 8),
        (BUFFER, 0, 0xFFFF_FFFF),
        (5, 0, 1),
        (6, 0, 4),
        (CONFIG, 4096, 1),
        (8, 0, 4),
        (9, 0, 4),
        (0xFFFF_FFFF, 0, 4),
    ],
)
def test_read_outside_is_refused(client: RawClient, region: int, offset: int, count: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.region_read(region, offset, count)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(CONTROL, 0xFFE, 4), (BUFFER, 0x10000, 1), (5, 0, 4), (9, 0, 4), (BUFFER, (1 << 64) - 2, 4)],
)
def test_write_outside_is_refused(client: RawClient, region: int, offset: int, count: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.region_write(region, offset, b"\xff" * count)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("length", [*range(16), 17, 20])
def test_read_of_wrong_length(client: RawClient, length: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.REGION_READ, bytes(length))
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("count", "carried"), [(4, 0), (4, 3), (4, 5), (0, 4), (0, 0), (1 << 31, 4)]
)
def test_write_whose_count_is_not_its_data(client: RawClient, count: int, carried: int) -> None:
    payload = wire.RegionAccess.STRUCT.pack(0, BUFFER, count) + b"\xee" * carried
    with pytest.raises(Refused) as refusal:
        client.call(Command.REGION_WRITE, payload)
    assert refusal.value.errno == errno.EINVAL
    assert client.region_read(BUFFER, 0, 8) == bytes(8)


def test_write_cut_short(client: RawClient) -> None:
    for length in range(16):
        with pytest.raises(Refused) as refusal:
            client.call(Command.REGION_WRITE, bytes(length))
        assert refusal.value.errno == errno.EINVAL


def test_posted_writes_are_done_before_a_later_read(client: RawClient) -> None:
    for index in range(500):
        client.region_write(BUFFER, 4 * index, struct.pack("<I", index), posted=True)
    data = client.region_read(BUFFER, 0, 2000)
    assert struct.unpack("<500I", data) == tuple(range(500))


def multi(entries: list[tuple[int, int, int, bytes]], count: int | None = None) -> bytes:
    packed = b"".join(wire.WRITE_MULTI_ENTRY.pack(*entry) for entry in entries)
    return wire.WRITE_MULTI_HEADER.pack(len(entries) if count is None else count) + packed


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_write_multi(client: RawClient, count: int) -> None:
    entries = [(8 * index, BUFFER, 8, struct.pack("<Q", index + 1)) for index in range(count)]
    reply = client.call(Command.REGION_WRITE_MULTI, multi(entries))
    assert struct.unpack("<Q", reply) == (count,)
    data = client.region_read(BUFFER, 0, 8 * 200)
    assert list(struct.unpack("<200Q", data))[:count] == list(range(1, count + 1))


def test_write_multi_of_every_width_in_order(client: RawClient) -> None:
    entries = [
        (0, BUFFER, 8, b"\x11" * 8),
        (0, BUFFER, 4, b"\x22" * 8),
        (0, BUFFER, 2, b"\x33" * 8),
        (0, BUFFER, 1, b"\x44" * 8),
    ]
    client.call(Command.REGION_WRITE_MULTI, multi(entries))
    assert client.region_read(BUFFER, 0, 8).hex() == "4433222211111111"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(7),
        multi([(0, BUFFER, 4, bytes(8))], count=2),
        multi([(0, BUFFER, 4, bytes(8))], count=0),
        multi([(0, BUFFER, 4, bytes(8))], count=(1 << 64) - 1),
        multi([(0, BUFFER, 9, b"\xff" * 8)]),
        multi([(0, BUFFER, 0, b"\xff" * 8)]),
        multi([(0, BUFFER, 4, b"\xff" * 8), (0x10000, BUFFER, 4, b"\xff" * 8)]),
        multi([(0, BUFFER, 4, b"\xff" * 8), (0, 5, 4, b"\xff" * 8)]),
        multi([(0, BUFFER, 4, b"\xff" * 8), (0, 1 << 31, 4, b"\xff" * 8)]),
        multi([(8 * i, BUFFER, 8, b"\xff" * 8) for i in range(201)]),
    ],
)
def test_write_multi_refused_writes_nothing(client: RawClient, payload: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.REGION_WRITE_MULTI, payload)
    assert refusal.value.errno == errno.EINVAL
    assert client.region_read(BUFFER, 0, 64) == bytes(64)
