# SPDX-License-Identifier: Apache-2.0
"""The messages of libvfio-user's sample client, played to a device on one page.

``make interop CLIENT=...`` runs that client itself.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.messages import Command, DeviceState, Feature, FeatureFlag, Irq
from examples import timer
from examples.timer import PATTERN, TimerDevice
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.serving import serving

PAGE = 4096
MAPS = 32  # twice the descriptors that the server takes in one message
MOST = 1024  # what the client says it takes in one message
LINES_OF_A_PAGE = 70
BAR1_USED = 0x3000


def test_the_device_is_one_page() -> None:
    assert len(Path(timer.__file__).read_text().splitlines()) <= LINES_OF_A_PAGE


@contextmanager
def connected(path: Path) -> Iterator[RawClient]:
    with RawClient(path, negotiate=False) as client:
        text = {"capabilities": {"max_msg_fds": 32, "max_data_xfer_size": MOST}}
        reply = client.version(json.dumps(text).encode() + b"\0")
        assert struct.unpack_from("<HH", reply) == (0, 0)
        offered = json.loads(reply[4:-1])["capabilities"]
        assert (offered["max_msg_fds"], offered["max_data_xfer_size"]) == (16, 1 << 20)
        yield client


@pytest.fixture
def ram() -> Iterator[int]:
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, MAPS * PAGE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def eventfd() -> Iterator[int]:
    descriptor = os.eventfd(0)  # blocking, as the sample client's
    yield descriptor
    os.close(descriptor)


def interrupt(eventfd: int) -> None:
    assert select.select([eventfd], [], [], 10)[0], "no interrupt"
    assert os.get_blocking(eventfd), "the server changed the client's own file"
    assert os.eventfd_read(eventfd) == 1


def test_negotiation_bogus_region_information_and_ids(tmp_path: Path) -> None:
    with serving(tmp_path / "s", TimerDevice()) as path, connected(path) as client:
        with pytest.raises(Refused) as refusal:
            client.region_read(0xDEADBEEF, 0, 4)
        assert refusal.value.errno == errno.EINVAL
        info = client.call(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
        assert struct.unpack("<IIII", info) == (16, 3, 9, 5)
        for index in range(9):
            request = wire.REGION_INFO.pack(32, 0, index, 0, 0, 0)
            reply = client.exchange(Command.DEVICE_GET_REGION_INFO, request)
            needed = wire.REGION_INFO.unpack_from(reply.payload)[0]
            assert not reply.descriptors
            assert (needed > 32) == (index == 1)
        request = wire.REGION_INFO.pack(80, 0, 1, 0, 0, 0).ljust(80, b"\0")
        reply = client.exchange(Command.DEVICE_GET_REGION_INFO, request)
        assert wire.REGION_INFO.unpack_from(reply.payload) == (80, 0xF, 1, 32, 0x4000, 0)
        assert wire.SPARSE_MMAP.unpack_from(reply.payload, 32) == (1, 1, 0, 2, 0)
        areas = list(wire.SPARSE_AREA.iter_unpack(reply.payload[48:]))
        assert areas == [(0, 0x1000), (0x2000, 0x1000)]
        (descriptor,) = reply.descriptors
        for offset, size in areas:
            with mmap.mmap(descriptor, size, offset=offset) as shared:
                shared[:4] = b"here"
            assert client.region_read(1, offset, 4) == b"here"
        os.close(descriptor)
        header = client.region_read(7, 0, 64)
        assert struct.unpack_from("<HH", header) == (0xDEAD, 0xBEEF)
        assert struct.unpack_from("<HH", header, 0x2C) == (0xCAFE, 0xBABE)
        assert client.call(Command.DEVICE_RESET) == b""


def set_up(client: RawClient, ram: int, eventfd: int, maps: range) -> None:
    for number in maps:
        client.dma_map(number * PAGE, PAGE, ram, offset=number * PAGE)
    for index in Irq:
        reply = client.call(Command.DEVICE_GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
        assert struct.unpack("<IIII", reply)[2] == index
    client.set_irqs(4 | 32, Irq.INTX, 0, 1, descriptors=[eventfd])


def dma_io(client: RawClient, ram: int, first: int) -> None:
    """Serve 4 KiB of writes and then of reads, in pieces that fit the client."""
    moved = 0
    while moved < PAGE:
        header, access, data = client.receive_command(Command.DMA_WRITE)
        assert (access.address, access.count) == (first + moved, MOST)
        os.pwrite(ram, data, access.address)
        client.answer(header, access.pack())
        moved += access.count
    while moved < 2 * PAGE:
        header, access, data = client.receive_command(Command.DMA_READ)
        assert (access.address, access.count, data) == (first + moved - PAGE, MOST, b"")
        client.answer(header, access.pack() + os.pread(ram, access.count, access.address))
        moved += access.count


def test_interrupt_dma_dirty_pages_and_migration(tmp_path: Path, ram: int, eventfd: int) -> None:
    target = TimerDevice()
    with (
        serving(tmp_path / "from", TimerDevice()) as source,
        serving(tmp_path / "to", target) as destination,
        connected(source) as client,
    ):
        client.call(Command.DEVICE_RESET)
        set_up(client, ram, eventfd, range(MAPS))
        start = wire.LoggingControl(PAGE, 0, 0).pack()
        assert client.feature(FeatureFlag.SET | Feature.DMA_LOGGING_START, start, 24) == start
        client.region_write(0, 0, struct.pack("<q", int(time.time())))
        interrupt(eventfd)
        dma_io(client, ram, 0)
        assert os.pread(ram, PAGE, 0) == os.pread(ram, PAGE, PAGE) == PATTERN
        dirty = []
        for number in range(MAPS):
            report = wire.LoggingReport(number * PAGE, PAGE, PAGE).pack()
            flags = FeatureFlag.GET | Feature.DMA_LOGGING_REPORT
            dirty.append(client.feature(flags, report, 40)[24:])
        # The client itself wrote, and noted, the bytes that went by messages.
        assert dirty == [bytes(8), b"\1" + bytes(7), *[bytes(8)] * (MAPS - 2)]
        assert client.feature(FeatureFlag.SET | Feature.DMA_LOGGING_STOP, start, 24) == start
        for number in range(MAPS // 2):
            client.dma_unmap(number * PAGE, PAGE)

        # A deadline ahead goes along with the state, and is met by the destination: three seconds
        # or more, so that a busy machine has moved it by then.
        client.region_write(0, 0, struct.pack("<q", int(time.time()) + 4))
        client.set_state(DeviceState.PRE_COPY)
        content = os.urandom(BAR1_USED)
        client.region_write(1, 0, content)
        assert sum(len(client.migration_read(MOST)) for _ in range(12)) == BAR1_USED
        client.set_state(DeviceState.STOP_COPY)
        state = [client.migration_read(MOST) for _ in range(13)]
        assert list(map(len, state)) == [MOST] * 12 + [8]
        client.set_state(DeviceState.STOP)

        with connected(destination) as second:
            second.set_state(DeviceState.RESUMING)
            for piece in state:
                second.migration_write(piece)
            second.set_state(DeviceState.STOP)
            assert second.region_read(1, 0, BAR1_USED) == content
            second.set_state(DeviceState.RUNNING)
            set_up(second, ram, eventfd, range(MAPS // 2, MAPS))
            interrupt(eventfd)
            dma_io(second, ram, MAPS // 2 * PAGE)
            unmap_all = wire.DmaUnmap(24, wire.DmaUnmapFlag.ALL, 0, 0).pack()
            assert second.call(Command.DMA_UNMAP, unmap_all) == unmap_all
            assert target.outcome == PATTERN
        assert not select.select([eventfd], [], [], 0)[0], "the source went on"
