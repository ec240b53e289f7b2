# SPDX-License-Identifier: Apache-2.0
"""The kernel's own virtio drivers, unmodified, on the model of a block device."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DISK_LIMIT_S = 30.0
PAGE = 4096
DISK = 16 << 20  # bytes
INDIRECT_DESC, EVENT_IDX, VERSION_1, ACCESS_PLATFORM = 28, 29, 32, 33

everywhere = pytest.mark.rehearse(timing=("eager", "held"), coherent=(True, False))


def folder(function: str) -> Path:
    return Path("/sys/bus/pci/devices") / function


def disk(function: str) -> Path:
    """Return the block device, which comes after the probe."""
    deadline = time.monotonic() + DISK_LIMIT_S
    while time.monotonic() < deadline:
        for found in folder(function).glob("virtio*/block/vd*"):
            path = Path("/dev") / found.name
            # The file is there a little before the disk can be opened.
            try:
                os.close(os.open(path, os.O_RDONLY))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO):
                    raise
            else:
                return path
        time.sleep(0.02)
    raise TimeoutError(f"{function}: virtio_blk has made no disk in {DISK_LIMIT_S} s")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a disk for transfers that the page cache takes no part in."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def pages(data: bytes) -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, len(data)) as memory:
        memory[:] = data
        yield memory


def round_trip(fd: int, data: bytes, offset: int) -> None:
    with pages(data) as written, pages(bytes(len(data))) as found:
        assert os.pwrite(fd, written, offset) == len(data)
        assert os.preadv(fd, [found], offset) == len(data)
        assert found[:] == data


def interrupts(function: str) -> dict[str, int]:
    """Return how often each interrupt of the device came, by its name in the kernel."""
    (device,) = folder(function).glob("virtio*")
    found = {}
    for line in Path("/proc/interrupts").read_text().splitlines()[1:]:
        words = line.split()
        if words[-1].startswith(device.name) or device.name in words:
            counts = [int(word) for word in words[1 : 1 + (os.cpu_count() or 1)]]
            found[words[-1]] = sum(counts)
    return found


@everywhere
def test_blocks_read_as_they_were_written(driver):
    with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd:
        round_trip(fd, os.urandom(8 * PAGE), 16 * PAGE)
        os.fsync(fd)


def test_what_the_kernel_knows_of_it(driver):
    with driver("virtio_pci") as bound:
        path = disk(bound.function)
        (device,) = folder(bound.function).glob("virtio*")
        features = (device / "features").read_text()
        for bit in INDIRECT_DESC, EVENT_IDX, VERSION_1, ACCESS_PLATFORM:
            assert features[bit] == "1"
        block = Path("/sys/class/block") / path.name
        assert int((block / "size").read_text()) * 512 == DISK
        assert len(list((block / "mq").iterdir())) == min(2, os.cpu_count() or 1)


@everywhere
@pytest.mark.parametrize("size", [512, PAGE, 3 * PAGE, 256 * PAGE])
def test_transfers_of_each_length(driver, size):
    """By few descriptors, by an indirect table, and by several requests."""
    with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd:
        round_trip(fd, os.urandom(size), 32 * PAGE)


def test_each_queue_has_a_message_of_its_own(driver):
    with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd:
        for cpu in range(os.cpu_count() or 1):
            os.sched_setaffinity(0, {cpu})
            round_trip(fd, os.urandom(PAGE), 0)
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        found = interrupts(bound.function)
        assert sum(name.endswith(("req.0", "req.1")) and n > 0 for name, n in found.items()) == min(
            2, os.cpu_count() or 1
        ), found


@pytest.mark.rehearse(timing=("eager", "held"))
def test_without_messages_the_line_tells(driver):
    allowed = folder(driver.function) / "msi_bus"
    allowed.write_text("0")
    try:
        with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd:
            assert list(folder(bound.function).glob("msi_irqs/*")) == []
            round_trip(fd, os.urandom(4 * PAGE), 0)
    finally:
        allowed.write_text("1")


@everywhere
def test_several_programs_at_a_time(driver):
    failures: list[BaseException] = []

    def work(fd: int, number: int) -> None:
        try:
            for turn in range(4):
                round_trip(fd, os.urandom(4 * PAGE), (8 * number + 4 * (turn % 2)) * PAGE)
        except BaseException as error:
            failures.append(error)

    with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd:
        threads = [threading.Thread(target=work, args=(fd, number)) for number in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert failures == []


def test_blocks_stay_when_the_driver_is_bound_again(driver):
    data = os.urandom(PAGE)
    with driver("virtio_pci") as bound, opened(disk(bound.function)) as fd, pages(data) as memory:
        os.pwrite(fd, memory, 64 * PAGE)
    with (
        driver("virtio_pci") as bound,
        opened(disk(bound.function)) as fd,
        pages(bytes(PAGE)) as found,
    ):
        os.preadv(fd, [found], 64 * PAGE)
        assert found[:] == data


def test_a_block_behind_the_disk_is_an_error(driver):
    with (
        driver("virtio_pci") as bound,
        opened(disk(bound.function)) as fd,
        pages(bytes(PAGE)) as memory,
        pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
    ):
        os.pwrite(fd, memory, DISK)
