# SPDX-License-Identifier: Apache-2.0
"""The kernel's own NVMe driver, unmodified, on the model of a controller."""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DISK_LIMIT_S = 30.0
PAGE = 4096
DISK = 16 << 20  # bytes
LENGTHS = 512, PAGE, 2 * PAGE, 33 * PAGE, 256 * PAGE
# Linux, include/uapi/linux/fs.h and nvme_ioctl.h
BLKDISCARD, BLKZEROOUT, BLKFLSBUF = 0x1277, 0x127F, 0x1261
NVME_IOCTL_ADMIN_CMD, NVME_IOCTL_IO_CMD = 0xC048_4E41, 0xC048_4E43
PASSTHROUGH = struct.Struct("<BBH3I2Q2I6I2I")
READ, UNKNOWN = 0x02, 0x7F
DO_NOT_RETRY = 1 << 14

everywhere = pytest.mark.rehearse(timing=("eager", "held"), coherent=(True, False))


def disk(function: str) -> Path:
    """Return the block device of the first namespace, which comes after the probe.

    The kernel looks at several namespaces at a time, so its numbers need not be theirs. A driver
    that cannot set the controller up gives the function back.
    """
    folder = Path(f"/sys/bus/pci/devices/{function}")
    deadline = time.monotonic() + DISK_LIMIT_S
    while time.monotonic() < deadline:
        if not (folder / "driver").exists():
            raise OSError(errno.ENODEV, f"{function}: nvme has given it up")
        for found in folder.glob("nvme/nvme*/nvme*n*"):
            path = Path("/dev") / found.name
            # The file is there a little before the disk can be opened, and a disk may go again.
            try:
                if (found / "nsid").read_text() == "1\n":
                    os.close(os.open(path, os.O_RDONLY))
                    return path
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                    raise
        time.sleep(0.02)
    raise TimeoutError(f"{function}: nvme has made no disk in {DISK_LIMIT_S} s")


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def forget(fd: int) -> None:
    """Have the next read come from the disk."""
    os.fsync(fd)
    fcntl.ioctl(fd, BLKFLSBUF)


def command(opcode: int, namespace: int = 0, first_word: int = 0) -> bytearray:
    """Return struct nvme_passthru_cmd of a command without data; ``first_word`` is CDW10."""
    return bytearray(PASSTHROUGH.pack(opcode, 0, 0, namespace, *(0,) * 6, first_word, *(0,) * 7))


@everywhere
def test_blocks_read_as_they_were_written(driver):
    with driver("nvme") as bound, opened(disk(bound.function)) as fd:
        written = os.urandom(8 * PAGE)
        os.pwrite(fd, written, 16 * PAGE)
        forget(fd)
        assert os.pread(fd, len(written), 16 * PAGE) == written


def test_what_the_kernel_knows_of_it(driver):
    with driver("nvme") as bound:
        path = disk(bound.function)
        (controller,) = Path(f"/sys/bus/pci/devices/{bound.function}/nvme").iterdir()
        assert (controller / "model").read_text().strip() == "dma-rehearsal example"
        assert (controller / "serial").read_text().strip() == "DMA-1"
        assert (controller / "state").read_text().strip() == "live"
        block = Path("/sys/class/block") / path.name
        assert int((block / "size").read_text()) * 512 == DISK
        assert len(list((block / "mq").iterdir())) == os.cpu_count()


@everywhere
def test_direct_transfers_of_each_length(driver):
    """By one PRP, by two, by a list, and by several commands."""
    with (
        driver("nvme") as bound,
        opened(disk(bound.function), os.O_DIRECT) as fd,
        mmap.mmap(-1, LENGTHS[-1] + PAGE) as memory,
        memoryview(memory) as view,
    ):
        for size, start in itertools.product(LENGTHS, (0, 512)):  # of the first page
            written = os.urandom(size)
            with view[start : start + size] as part:
                part[:] = written
                assert os.pwritev(fd, [part], size) == size
                part[:] = bytes(size)
                assert os.preadv(fd, [part], size) == size
                assert bytes(part) == written, (size, start)


@everywhere
def test_several_queues_at_once(driver):
    """One thread on each CPU, so that each uses a pair of queues of its own."""
    with driver("nvme") as bound:
        path = disk(bound.function)
        failed: list[str] = []

        def work(cpu: int) -> None:
            os.sched_setaffinity(0, {cpu})
            start = cpu * 64 * PAGE
            with opened(path, os.O_DIRECT) as fd, mmap.mmap(-1, 4 * PAGE) as memory:
                for turn in range(8):
                    written = os.urandom(len(memory))
                    memory[:] = written
                    os.pwritev(fd, [memory], start + turn * len(memory))
                    memory[:] = bytes(len(memory))
                    os.preadv(fd, [memory], start + turn * len(memory))
                    if memory[:] != written:
                        failed.append(f"CPU {cpu}, turn {turn}")

        threads = [threading.Thread(target=work, args=(cpu,)) for cpu in os.sched_getaffinity(0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def test_discard_and_zeroes(driver):
    with driver("nvme") as bound, opened(disk(bound.function)) as fd:
        os.pwrite(fd, b"x" * 16 * PAGE, 0)
        os.fsync(fd)
        fcntl.ioctl(fd, BLKDISCARD, struct.pack("<QQ", 0, 4 * PAGE))
        fcntl.ioctl(fd, BLKZEROOUT, struct.pack("<QQ", 8 * PAGE, 4 * PAGE))
        forget(fd)
        found = os.pread(fd, 16 * PAGE, 0)
        zero, full = bytes(4 * PAGE), b"x" * 4 * PAGE
        assert found == zero + full + zero + full


def test_commands_that_fail_come_back_with_their_status(driver):
    with driver("nvme") as bound, opened(disk(bound.function)) as fd:
        beyond = command(READ, 1, DISK // 512)
        assert fcntl.ioctl(fd, NVME_IOCTL_IO_CMD, beyond) == 0x80 | DO_NOT_RETRY
        unknown = command(UNKNOWN)
        assert fcntl.ioctl(fd, NVME_IOCTL_ADMIN_CMD, unknown) == 0x01 | DO_NOT_RETRY
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            os.pwrite(fd, b"x" * PAGE, DISK)
        assert len(os.pread(fd, PAGE, 0)) == PAGE


def test_bound_again_and_again(driver):
    for _ in range(3):
        with driver("nvme") as bound, opened(disk(bound.function)) as fd:
            assert len(os.pread(fd, PAGE, 0)) == PAGE
