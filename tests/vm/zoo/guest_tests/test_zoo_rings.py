# SPDX-License-Identifier: Apache-2.0
"""Right drivers of the zoo with rings: frames, a network interface, a disk."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from device_file import opened, pattern, written

from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
PROTOCOL = 0x88B5  # IEEE 802, for experiments
FRAMES = [60, 61, 128, 129, 700, 1514]
SECTOR, DISK = 512, 4 << 20


def test_receive_loop_of_the_howto(driver: DriverRehearsal) -> None:
    with driver("zoo_ring"), opened("zoo_ring") as file:
        for turn in range(3):
            for length in 1, 64, 65, 128, 129, 1500, 2048:
                looked_at = b"\0" + pattern(length - 1, turn)
                frame = b"\1" + pattern(length - 1, length + turn)
                for each in looked_at, frame:
                    written(file, each)
                assert os.read(file, 2048) == frame


@contextmanager
def interface(driver: DriverRehearsal, name: str = "zoo0") -> Iterator[socket.socket]:
    """Bring an interface up; yield a socket that gets the frames of our protocol.

    Where a mapping is to fail a frame may be lost, and then nobody need wait long for it.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as control:
        set_up(control, name, up=True)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL)) as raw:
                raw.bind((name, PROTOCOL))
                raw.settimeout(0.2 if driver.failures.due else 10)
                yield raw
        finally:
            set_up(control, name, up=False)


def set_up(control: socket.socket, name: str, *, up: bool) -> None:
    """Bring an interface up or down."""
    request = struct.pack("16sH22x", name.encode(), 0)
    flags = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)[0]
    flags = flags | IFF_UP if up else flags & ~IFF_UP
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags))


def ethernet(length: int, seed: int) -> bytes:
    """Return a frame of ``length`` bytes to everybody."""
    head = b"\xff" * 6 + b"\x02zoo\0\0" + PROTOCOL.to_bytes(2, "big")
    body: bytes = pattern(length - len(head), seed)
    return head + body


def test_network(driver: DriverRehearsal) -> None:
    with driver("zoo_net"), interface(driver) as raw:
        for turn in range(3):
            for length in FRAMES:
                raw.send(ethernet(length, turn + length))
                assert raw.recv(2048) == ethernet(length, turn + length)


def test_network_many_frames_at_once(driver: DriverRehearsal) -> None:
    with driver("zoo_net"), interface(driver) as raw:
        for turn in range(10):
            frames = [ethernet(1000, turn * 16 + each) for each in range(16)]
            for each in frames:
                raw.send(each)
            assert [raw.recv(2048) for _ in frames] == frames


def test_network_up_and_down(driver: DriverRehearsal) -> None:
    with driver("zoo_net"):
        for _ in range(3):
            with interface(driver) as raw:
                raw.send(ethernet(100, 1))
                assert raw.recv(2048) == ethernet(100, 1)


def test_disk(driver: DriverRehearsal) -> None:
    with driver("zoo_block"):
        disk = os.open("/dev/zoo_block", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, 256 * 1024) as source, mmap.mmap(-1, 256 * 1024) as target:
                source[:] = pattern(len(source))
                for length, at in (SECTOR, 0), (4096, 8192), (len(source), 1 << 20):
                    transfer(disk, memoryview(source)[:length], memoryview(target)[:length], at)
        finally:
            os.close(disk)


def transfer(disk: int, source: memoryview, target: memoryview, at: int) -> None:
    """Write at an offset, and read it again."""
    with source, target:
        assert os.pwritev(disk, [source], at) == len(source)
        assert os.preadv(disk, [target], at) == len(target)
        assert target == source


def test_disk_by_the_page_cache(driver: DriverRehearsal) -> None:
    with driver("zoo_block"), open("/dev/zoo_block", "r+b", buffering=0) as disk:  # noqa: PTH123
        data = pattern(300_000, 9)
        disk.write(data)
        os.fsync(disk.fileno())
        os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        disk.seek(0)
        assert disk.read(len(data)) == data
