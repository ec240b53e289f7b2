# SPDX-License-Identifier: Apache-2.0
"""The kernel's own nvme loses its controller in the middle of its I/O, and gets it back."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.drivers.driver_modules import DriverModules
from dma_rehearsal.guest.drivers.kernel_binding import endpoint_functions
from dma_rehearsal.guest.testkit import EndpointSlot

pytestmark = pytest.mark.unprotected  # nothing tells the platform what the kernel maps

DRIVER = "nvme"
LIMIT_S = 30.0
SIZE = 64 << 10


def block_device(slot: EndpointSlot) -> Path:
    """Wait for the first namespace; return its device file."""
    (function,) = slot.functions
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = sorted(Path(f"/sys/bus/pci/devices/{function}/nvme").glob("nvme*/nvme*n1"))
        if found and (path := Path("/dev") / found[0].name).exists():
            return path
        assert time.monotonic() < deadline, "nvme has not found its namespace"
        time.sleep(0.01)


class Disk:
    """A namespace, past the kernel's cache of pages."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self.page = mmap.mmap(-1, SIZE)

    def write(self, fill: bytes) -> None:
        self.page[:] = fill * SIZE
        assert os.pwrite(self._file, self.page, 0) == SIZE

    def read(self) -> bytes:
        assert os.preadv(self._file, [self.page], 0) == SIZE
        return self.page[:]

    def close(self) -> None:
        os.close(self._file)


class Traffic(threading.Thread):
    """Writes until the disk is gone."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(daemon=True)
        self._disk = disk
        self.count = 0
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            while True:
                self._disk.write(b"%d" % (self.count % 10))
                self.count += 1
        except OSError as error:
            self.error = error


@pytest.fixture
def slot(endpoint_slot: EndpointSlot) -> Iterator[EndpointSlot]:
    """The slot, whose function the driver has in the test alone: between tests DMA is denied."""
    DriverModules().load(DRIVER, {})
    for each in endpoint_functions():
        each.bind(DRIVER)
    yield endpoint_slot
    for each in endpoint_functions():
        each.unbind()


@pytest.mark.parametrize("act", [EndpointSlot.unplug, EndpointSlot.pull], ids=["unplug", "pull"])
def test_in_the_middle_of_io(slot: EndpointSlot, act: Callable[[EndpointSlot], None]) -> None:
    disk = Disk(block_device(slot))
    traffic = Traffic(disk)
    traffic.start()
    deadline = time.monotonic() + LIMIT_S
    while traffic.count < 3:
        assert time.monotonic() < deadline, "nvme does not write"
    act(slot)
    traffic.join(LIMIT_S)
    assert not traffic.is_alive(), "a write hangs"
    assert traffic.error is not None
    disk.close()
    slot.plug()  # the kernel binds the driver by itself
    disk = Disk(block_device(slot))
    try:
        assert disk.read()[:1].isdigit(), "what was written before"
        disk.write(b"n")
        assert disk.read() == b"n" * SIZE
    finally:
        disk.close()
