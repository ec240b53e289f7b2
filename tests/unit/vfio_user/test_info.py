# SPDX-License-Identifier: Apache-2.0
"""DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_REGION_IO_FDS, DEVICE_GET_IRQ_INFO."""

from __future__ import annotations

import errno
import struct
from typing import ClassVar

import pytest

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints import (
    Bars,
    Endpoint,
    Identity,
    SharedBar,
)
from dma_rehearsal.device.vfio_user import information
from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import Command
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import MIXED, PORTS, Prober

SIZES = {0: 0x1000, 1: 0x10000, 2: 0x1000, 3: 0x1000, 4: 0x1000, 5: 0, 6: 0, 7: 4096, 8: 0}
EVENTFD, MASKABLE, AUTOMASKED, NORESIZE = 1, 2, 4, 8
# Interrupts that take MASK and UNMASK say so, and INTx, a level, masks itself.
FLAGS = {
    0: EVENTFD | MASKABLE | AUTOMASKED,
    1: EVENTFD | MASKABLE | NORESIZE,
    2: EVENTFD | MASKABLE | NORESIZE,
    3: EVENTFD | NORESIZE,
    4: EVENTFD | NORESIZE,
}
IRQS = {0: 1, 1: 0, 2: layout.VECTORS_DEFAULT, 3: 1, 4: 1}
QUERIES = {
    Command.DEVICE_GET_INFO: 16,
    Command.DEVICE_GET_REGION_INFO: 32,
    Command.DEVICE_GET_REGION_IO_FDS: 16,
    Command.DEVICE_GET_IRQ_INFO: 16,
}


def test_device(client: RawClient) -> None:
    info = client.call(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    assert struct.unpack("<IIII", info) == (16, 3, 9, 5)


@pytest.mark.parametrize("index", SIZES)
def test_region(client: RawClient, index: int) -> None:
    request = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)
    reply = client.call(Command.DEVICE_GET_REGION_INFO, request)
    argsz, flags, number, capabilities, size, offset = struct.unpack("<IIIIQQ", reply)
    assert (argsz, number, capabilities, offset) == (32, index, 0, 0)
    assert size == SIZES[index]
    # No region is mmap-able: one that is turns posted writes off for the whole device in QEMU.
    assert flags == (3 if size else 0)


@pytest.mark.parametrize(
    ("index", "flags", "size"),
    [(MIXED, 3, 0x4000), (MIXED + 1, 0, 0), (PORTS, 3, 16), (wire.ROM_REGION, 1, 2048)],
)
def test_regions_of_other_kinds(prober: Prober, index: int, flags: int, size: int) -> None:
    """The upper half of 64 bits is not a region, and a ROM can only be read."""
    request = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)
    reply, descriptors = information.region_info(prober, request, 1)
    assert wire.REGION_INFO.unpack(reply) == (32, flags, index, 0, size, 0)
    assert descriptors == ()


class Resized(Endpoint):
    identity = Identity(0x1234, 1, 0xFF0000)
    bars: ClassVar[Bars] = {0: SharedBar(2 << 20, ((1 << 20, 4096),))}


def test_a_region_that_was_made_smaller_offers_nothing_behind_its_end() -> None:
    request = struct.pack("<IIIIQQ", 64, 0, 0, 0, 0, 0)
    model = Resized()
    _, descriptors = information.region_info(model, request, 1)
    assert len(descriptors) == 1
    model.config.resize_bar(0, 1 << 20)
    reply, descriptors = information.region_info(model, request, 1)
    assert wire.REGION_INFO.unpack(reply)[4] == 1 << 20
    assert descriptors == ()


@pytest.mark.parametrize("index", IRQS)
def test_irq(client: RawClient, index: int) -> None:
    reply = client.call(Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
    _, flags, number, count = struct.unpack("<IIII", reply)
    assert flags == FLAGS[index]
    assert (number, count) == (index, IRQS[index])


@pytest.mark.parametrize("index", [index for index, size in SIZES.items() if size])
def test_region_io_fds_are_none(client: RawClient, index: int) -> None:
    request = struct.pack("<IIII", 16, 0, index, 0)
    assert client.call(Command.DEVICE_GET_REGION_IO_FDS, request) == request


@pytest.mark.parametrize("index", [5, 6, 8, 9, 0xFFFF_FFFF])
def test_region_io_fds_of_no_region(client: RawClient, index: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(Command.DEVICE_GET_REGION_IO_FDS, struct.pack("<IIII", 16, 0, index, 0))
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("index", [9, 100, 0xFFFF_FFFF])
@pytest.mark.parametrize("command", [Command.DEVICE_GET_REGION_INFO, Command.DEVICE_GET_IRQ_INFO])
def test_index_that_does_not_exist(client: RawClient, command: Command, index: int) -> None:
    request = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)[: QUERIES[command]]
    with pytest.raises(Refused) as refusal:
        client.call(command, request)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("command", QUERIES)
@pytest.mark.parametrize("argsz", [0, 1, 15])
def test_argsz_without_room(client: RawClient, command: Command, argsz: int) -> None:
    request = struct.pack("<I", argsz).ljust(QUERIES[command], b"\0")
    with pytest.raises(Refused) as refusal:
        client.call(command, request)
    assert refusal.value.errno == errno.EINVAL


@pytest.mark.parametrize("command", QUERIES)
@pytest.mark.parametrize("length", [0, 1, 4, 15])
def test_truncated(client: RawClient, command: Command, length: int) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(command, struct.pack("<IIII", 64, 0, 0, 0)[:length])
    assert refusal.value.errno == errno.EINVAL
