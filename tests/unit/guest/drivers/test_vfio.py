# SPDX-License-Identifier: Apache-2.0
"""VFIO from user space, against a fake of the kernel's side and against the kernel's header."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.vfio import (
    Container,
    IovaAllocator,
    VfioFunction,
    container,
    function,
    uapi,
)
from dma_rehearsal.guest.drivers.vfio.uapi import Request
from dma_rehearsal.guest.iobuffer import (
    IOBadArgumentError,
    IOBusyError,
    IODeviceError,
    IODirection,
    IONoMemoryError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.base import deferred, mistakes
from dma_rehearsal.guest.iobuffer.base.mistakes import IOMistakeWarning
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts

PAGE = 4096
BUS = 0x10_0000  # the first bus address that is given
HOLE = (0xFEE0_0000, 0xFEEF_FFFF)  # where messages of interrupts go
RANGES = [(0, HOLE[0] - 1), (HOLE[1] + 1, (1 << 39) - 1)]


class Kernel:
    """VFIO's state: mappings by bus address, eventfds by vector. ``error`` refuses the next."""

    def __init__(self, root: Path) -> None:
        self.mappings: dict[int, tuple[int, int, int]] = {}
        self.eventfds: dict[int, int] = {}
        self.enabled = 0
        self.limit = 4
        self.error = 0
        self.cut = 0  # bytes that an unmap leaves
        self.viable = 1
        self.resets = self.unmasks = 0
        self.counts = {0: 1, 2: 4}
        self.device = root / "device"
        # BARs of a page each from 0 on, then configuration space.
        self.device.write_bytes(bytes(7 * PAGE) + bytes(256))

    def ioctl(self, _fd: int, request: int, argument: Any = 0) -> int:
        error, self.error = self.error, 0
        if error:
            raise OSError(error, os.strerror(error))
        return int(getattr(self, Request(request).name.lower())(argument))

    def get_api_version(self, _: int) -> int:
        return 0

    def check_extension(self, kind: int) -> bool:
        return kind == 3

    def set_iommu(self, _: int) -> int:
        return 0

    def group_set_container(self, _: bytes) -> int:
        return 0

    def group_get_status(self, data: bytearray) -> int:
        struct.pack_into("<I", data, 4, self.viable)
        return 0

    def group_get_device_fd(self, name: bytearray) -> int:
        if bytes(name) != b"0000:00:03.0\0":
            raise OSError(errno.ENODEV, "no such device")
        return os.open(self.device, os.O_RDWR)

    def iommu_get_info(self, data: bytearray) -> int:
        ranges = struct.pack("<HHIII", 1, 1, 64 + 16, 2, 0)[:16]
        ranges += b"".join(struct.pack("<QQ", *each) for each in RANGES)
        available = struct.pack("<HHII", 3, 1, 0, self.limit - len(self.mappings))
        header = struct.pack("<IIQII", 128, 3, 0x4020_1000, 24, 0)
        # The first capability names the place of the second, behind its own end.
        ranges = ranges[:4] + struct.pack("<I", 24 + len(ranges)) + ranges[8:]
        whole = (header + ranges + available).ljust(128, b"\0")
        data[:] = whole[: len(data)]
        return 0

    def iommu_map_dma(self, data: bytearray) -> int:
        _, flags, va, address, size = struct.unpack("<IIQQQ", data)
        if len(self.mappings) == self.limit:
            raise OSError(errno.ENOSPC, "full")
        self.mappings[address] = va, size, flags
        return 0

    def iommu_unmap_dma(self, data: bytearray) -> int:
        _, _, address, size = struct.unpack("<IIQQ", data)
        done = 0
        for at in [each for each in self.mappings if address <= each < address + size]:
            va, length, flags = self.mappings.pop(at)
            done += length - self.cut
            if self.cut:
                rest = length - self.cut
                self.mappings[at + rest] = va + rest, self.cut, flags
        struct.pack_into("<Q", data, 16, done)
        return 0

    def device_get_region_info(self, data: bytearray) -> int:
        number = struct.unpack_from("<I", data, 8)[0]
        if number > 7:
            raise OSError(errno.EINVAL, "no such region")
        size = 256 if number == 7 else 0 if number == 5 else PAGE
        flags = 3 if number in (4, 7) else 7
        struct.pack_into("<IIIIQQ", data, 0, 32, flags, number, 0, size, number * PAGE)
        return 0

    def device_get_irq_info(self, data: bytearray) -> int:
        index = struct.unpack_from("<I", data, 8)[0]
        struct.pack_into("<I", data, 12, self.counts.get(index, 0))
        return 0

    def device_set_irqs(self, data: bytes) -> int:
        _, flags, index, start, count = struct.unpack_from("<IIIII", data)
        if flags & 1 << 4:
            self.unmasks += 1
        elif not count:
            self.enabled = 0
            self.eventfds.clear()
        else:
            fds = struct.unpack_from(f"<{count}i", data, 20)
            self.enabled = self.enabled or start + count
            if index == 2 and start + count > self.enabled:
                raise OSError(errno.EINVAL, "more vectors than were allocated")
            self.eventfds |= {start + number: fd for number, fd in enumerate(fds)}
        return 0

    def device_reset(self, _: int) -> int:
        self.resets += 1
        return 0


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(tmp_path)
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    return made


@pytest.fixture
def opened(kernel: Kernel, tmp_path: Path) -> Iterator[Container]:  # noqa: ARG001
    (tmp_path / "vfio").touch()
    with Container(tmp_path / "vfio") as made:
        made.attach(0)
        yield made


@pytest.fixture
def memory() -> Iterator[int]:
    """Four pages of this process."""
    pages = mmap.mmap(-1, 4 * PAGE)
    yield ctypes.addressof(ctypes.c_char.from_buffer(pages))
    pages.close()


# Bus addresses.


def test_bus_addresses_are_pages_of_the_ranges_from_1_mib_on() -> None:
    addresses = IovaAllocator([(0, 0x10_2FFF), (0x20_0800, 0x20_27FF)], PAGE)
    assert [addresses.allocate(1) for _ in range(3)] == [0x10_0000, 0x10_1000, 0x10_2000]
    assert addresses.allocate(PAGE) == 0x20_1000, "whole pages of a range alone"
    with pytest.raises(IONoMemoryError, match="largest free run is 0") as error:
        addresses.allocate(1)
    assert error.value.largest == 0
    addresses.free(0x10_1000)
    assert addresses.allocate(PAGE) == 0x10_1000


def test_address_given_back_in_the_midst_of_another_call_is_free_afterwards() -> None:
    """As a finalizer does it."""
    addresses = IovaAllocator([(0, (1 << 32) - 1)], PAGE)
    first = addresses.allocate(PAGE)
    with addresses._lock:
        addresses.free(first)
    assert addresses.allocate(PAGE) != first, "it rests"
    addresses.take(first, PAGE)


def test_bus_addresses_rest_until_nothing_else_is_left() -> None:
    addresses = IovaAllocator([(0x10_0000, 0x10_3FFF)], PAGE)
    first = addresses.allocate(PAGE)
    second = addresses.allocate(PAGE)
    addresses.free(first)
    addresses.free(second, used=False)
    given = [addresses.allocate(PAGE) for _ in range(3)]
    assert given == [second, 0x10_2000, 0x10_3000], "what no device could know does not rest"
    assert addresses.largest() == PAGE
    assert addresses.last_page() == first
    assert addresses.allocate(PAGE) == first


def test_bus_addresses_that_rest_can_be_reserved_and_masked() -> None:
    addresses = IovaAllocator([(0, 0xFF_FFFF)], PAGE)
    for address in (0x20_0000, 0x80_0000):
        addresses.take(address, PAGE)
        addresses.free(address)
    addresses.reserve(0x20_0000, PAGE)
    addresses.narrow(23)
    for address in (0x20_0000, 0x80_0000):
        with pytest.raises(IOBadArgumentError):
            addresses.take(address, PAGE)
    assert addresses.largest() == 0x80_0000 - 0x20_1000


def test_bus_addresses_honour_alignment_and_bits() -> None:
    addresses = IovaAllocator([(0x1F_F000, 0xFFFF_FFFF)], PAGE)
    assert addresses.allocate(1, 1 << 20) == 0x20_0000
    with pytest.raises(IONoMemoryError, match=r"below 2\*\*21"):
        addresses.allocate(2 * PAGE, bits=21)
    assert addresses.allocate(PAGE, bits=21) == 0x1F_F000
    for length, alignment in ((0, 1), (-1, 1), (1, 0), (1, 3)):
        with pytest.raises(IOBadArgumentError):
            addresses.allocate(length, alignment)


def test_bus_addresses_can_be_chosen_and_reserved() -> None:
    addresses = IovaAllocator([(0, 0xFF_FFFF)], PAGE)
    addresses.take(0x20_0000, PAGE)
    for address in (0x20_0000, 0x20_0800, 0x100_0000):
        with pytest.raises(IOBadArgumentError):
            addresses.take(address, PAGE)
    addresses.reserve(0x10_0800, 0x1000)
    addresses.reserve(0x1F_F000, 0x3000)  # a part of it is in use
    assert addresses.allocate(PAGE) == 0x10_2000
    with pytest.raises(IOBadArgumentError):
        addresses.take(0x20_1000, PAGE)


def test_bus_addresses_end_at_the_mask() -> None:
    """A request without ``bits`` gets none beyond it either."""
    addresses = IovaAllocator([(0, 0x7F_FFFF), (0x90_0000, 0xFFFF_FFFF)], PAGE)
    assert addresses.last_page() == 0xFFFF_F000
    assert addresses.largest(20) == 0, "the first MiB is left alone"
    assert addresses.largest(21) == 1 << 20
    addresses.narrow(22)
    assert addresses.last_page() == 0x3F_F000
    assert addresses.allocate(3 << 20) == 0x10_0000
    assert addresses.largest() == 0
    with pytest.raises(IONoMemoryError):
        addresses.allocate(PAGE)
    with pytest.raises(IONoMemoryError):
        addresses.last_page()
    with pytest.raises(IOBadArgumentError, match="beyond what the IOMMU"):
        addresses.take(0x40_0000, PAGE)


# Containers.


def test_container_maps_below_the_mask_alone(opened: Container, memory: int) -> None:
    opened.set_mask(21)
    with pytest.raises(IONoMemoryError):
        opened.map(memory, PAGE, read=True, write=True, alignment=1 << 21)
    with pytest.raises(IOBadArgumentError):
        opened.map(memory, PAGE, read=True, write=True, address=1 << 21)
    assert opened.map(memory, PAGE, read=True, write=True).address < 1 << 21


@pytest.mark.parametrize("bits", [-1, 0, 12, 65])
def test_mask_that_is_none_is_refused(opened: Container, bits: int) -> None:
    with pytest.raises(IOBadArgumentError, match="a mask of"):
        opened.set_mask(bits)


@pytest.mark.usefixtures("kernel")
def test_mask_is_for_after_a_group(tmp_path: Path) -> None:
    (tmp_path / "vfio").touch()
    with Container(tmp_path / "vfio") as empty, pytest.raises(IOBadArgumentError, match="attach"):
        empty.set_mask(32)


def test_container_tells_what_the_iommu_can(opened: Container) -> None:
    assert opened.page == PAGE
    assert opened.available() == 4
    with pytest.raises(IOBadArgumentError, match="in use, or beyond what the IOMMU"):
        opened.iova.take(HOLE[0], PAGE)


@pytest.mark.parametrize(
    ("read", "write", "flags"), [(True, False, 1), (False, True, 2), (True, True, 3)]
)
def test_map_and_unmap(
    opened: Container, kernel: Kernel, memory: int, read: bool, write: bool, flags: int
) -> None:
    with opened.map(memory, 2 * PAGE, read=read, write=write) as iova:
        assert kernel.mappings == {iova.address: (memory, 2 * PAGE, flags)}
        assert iova.segments == ((iova.address, 2 * PAGE),)
        assert not iova.closed
        other = opened.map(memory, PAGE, read=True, write=False, address=0x4000_0000)
        assert other.address == 0x4000_0000
        other.close()
        other.close()
    assert iova.closed
    assert kernel.mappings == {}
    assert opened.map(memory, PAGE, read=True, write=True).address != iova.address, "it rests"
    again = opened.map(memory, PAGE, read=True, write=True, address=iova.address)
    assert again.address == iova.address


class Grants:
    """An access control that keeps what is granted; ``room`` for so many."""

    def __init__(self) -> None:
        self.granted: dict[object, tuple[int, int, IODirection]] = {}
        self.room = 8

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        if len(self.granted) == self.room:
            raise IOReturnError("full", code=IOReturn.kIOReturnNoResources)
        made = object()
        self.granted[made] = address, length, direction
        return made

    def withdraw(self, grant: object) -> None:
        del self.granted[grant]

    def reclaim(self) -> None: ...


@pytest.fixture
def control() -> Iterator[Grants]:
    made = Grants()
    before, dma_platform.access_control = dma_platform.access_control, made
    yield made
    dma_platform.access_control = before


@pytest.mark.parametrize(
    ("read", "write", "direction"), [(True, False, 2), (False, True, 1), (True, True, 3)]
)
def test_a_mapping_is_granted_for_just_its_rights(
    opened: Container, memory: int, control: Grants, read: bool, write: bool, direction: int
) -> None:
    with opened.map(memory, 2 * PAGE, read=read, write=write) as iova:
        due = iova.address, 2 * PAGE, IODirection(direction)
        assert list(control.granted.values()) == [due]
    assert not control.granted
    with opened.map(memory, PAGE, read=read, write=write, grant=False):
        assert not control.granted, "prepare() grants that"


def test_an_unmap_that_fails_can_be_done_again(
    opened: Container, kernel: Kernel, memory: int, control: Grants
) -> None:
    iova = opened.map(memory, PAGE, read=True, write=True)
    kernel.error = errno.ENOMEM
    with pytest.raises(IODeviceError, match="Cannot allocate memory"):
        iova.close()
    assert not iova.closed
    assert list(kernel.mappings) == [iova.address]
    iova.close()
    assert (kernel.mappings, control.granted) == ({}, {})


def test_a_forked_child_leaves_its_parents_mappings_alone(
    opened: Container, kernel: Kernel, memory: int, control: Grants
) -> None:
    """It has the container's descriptor as well: the kernel would unmap them for the devices."""
    iova = opened.map(memory, PAGE, read=True, write=True)
    child = os.fork()
    if child == 0:
        iova.close()
        os._exit(0 if kernel.mappings and control.granted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    iova.close()
    assert (kernel.mappings, control.granted) == ({}, {})


def test_no_room_for_a_grant_leaves_nothing_mapped(
    opened: Container, kernel: Kernel, memory: int, control: Grants
) -> None:
    control.room = 0
    with pytest.raises(IOReturnError, match="full"):
        opened.map(memory, PAGE, read=True, write=True)
    assert kernel.mappings == {}


def test_what_cannot_be_granted_and_not_be_unmapped_is_unmapped_later(
    opened: Container,
    kernel: Kernel,
    memory: int,
    control: Grants,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: bytearray) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    control.room = 0
    with monkeypatch.context() as patched:
        patched.setattr(kernel, "iommu_unmap_dma", refuse)
        with (
            pytest.warns(IOMistakeWarning, match="could not be given back"),
            pytest.raises(IOReturnError, match=r"full.*is not undone"),
        ):
            opened.map(memory, PAGE, read=True, write=True)
        deferred.run_pending()
        (address,) = kernel.mappings
        with pytest.raises(IOBadArgumentError):
            opened.iova.take(address, PAGE)  # while it is mapped it is nobody else's
    deferred.run_pending()
    assert kernel.mappings == {}
    opened.iova.take(address, PAGE)
    assert len(mistakes.taken()) == 1


@pytest.mark.parametrize(
    ("offset", "length", "read", "says"),
    [
        (1, PAGE, True, "whole pages"),
        (0, PAGE + 1, True, "whole pages"),
        (0, 0, True, "whole pages"),
        (0, PAGE, False, "neither read nor write"),
    ],
)
def test_what_cannot_be_mapped(
    opened: Container, memory: int, offset: int, length: int, read: bool, says: str
) -> None:
    with pytest.raises(IOBadArgumentError, match=says):
        opened.map(memory + offset, length, read=read, write=False)


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, IOReturn.kIOReturnNoResources, "dma_entry_limit 7 "),
        (errno.ENOMEM, IOReturn.kIOReturnCannotWire, "RLIMIT_MEMLOCK"),
        (errno.EFAULT, IOReturn.kIOReturnVMError, "nothing is there"),
        (errno.EINVAL, IOReturn.kIOReturnBadArgument, "Invalid argument"),
        (errno.EIO, IOReturn.kIOReturnError, "Input/output"),
    ],
)
def test_errors_of_map_say_why(
    opened: Container,
    kernel: Kernel,
    memory: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: IOReturn,
    says: str,
) -> None:
    (tmp_path / "limit").write_text("7\n")
    monkeypatch.setattr(container, "ENTRY_LIMIT", tmp_path / "limit")
    kernel.error = number
    with pytest.raises(IODeviceError, match=says) as error:
        opened.map(memory, PAGE, read=True, write=True)
    assert (error.value.code, error.value.address) == (code, memory)
    first = opened.map(memory, PAGE, read=True, write=True)
    assert first.address == 0x10_0000, "the bus address was given back"


def test_a_mapping_that_exists_is_busy(opened: Container, kernel: Kernel, memory: int) -> None:
    kernel.error = errno.EEXIST
    with pytest.raises(IOBusyError):
        opened.map(memory, PAGE, read=True, write=True)


def test_an_unmap_that_leaves_something_is_an_error(
    opened: Container, kernel: Kernel, memory: int
) -> None:
    """Then the mapping is on record still, its bus addresses are taken, and it can be ended."""
    iova = opened.map(memory, 2 * PAGE, read=True, write=True)
    kernel.cut = PAGE
    with pytest.raises(IODeviceError, match="unmapped 4096 of 8192"):
        iova.close()
    kernel.cut, kernel.error = 0, errno.EIO
    with pytest.raises(IODeviceError, match=f"unmapping 8192 bytes at bus address {BUS:#x}"):
        iova.close()
    assert not iova.closed
    assert kernel.mappings
    with pytest.raises(IOBadArgumentError, match="in use"):
        opened.iova.take(iova.address, PAGE)
    iova.close()
    assert iova.closed
    assert not kernel.mappings
    opened.iova.take(iova.address, PAGE)
    iova.close()


def test_closing_the_container_ends_its_mappings(opened: Container, memory: int) -> None:
    iova = opened.map(memory, PAGE, read=True, write=True)
    opened.close()
    assert iova.closed
    iova.close()


def test_container_without_a_group_maps_nothing(
    kernel: Kernel, tmp_path: Path, memory: int
) -> None:
    with pytest.raises(IODeviceError, match="is the module vfio loaded"):
        Container(tmp_path / "absent")
    (tmp_path / "vfio").touch()
    with Container(tmp_path / "vfio") as made:
        with pytest.raises(IODeviceError, match="no group yet"):
            made.map(memory, PAGE, read=True, write=True)
        kernel.error = errno.EPERM
        with pytest.raises(IODeviceError, match="intremap=on"):
            made.attach(0)


# Functions.


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PciFunction:
    """A function that vfio-pci has, in group 3."""
    folder = tmp_path / "0000:00:03.0"
    folder.mkdir()
    for name, target in (("driver", "drivers/vfio-pci"), ("iommu_group", "groups/3")):
        (folder / name).symlink_to(tmp_path / target)
    (tmp_path / "3").touch()
    monkeypatch.setattr(function, "GROUPS", tmp_path)
    return PciFunction(folder)


def test_function_has_the_interface_of_sysfs(
    opened: Container, kernel: Kernel, found: PciFunction
) -> None:
    bars = [0xFEB0_0000 + number * PAGE for number in range(6)]
    config = struct.pack("<6I", *bars)
    data = bytearray(kernel.device.read_bytes())
    data[7 * PAGE + 0x10 : 7 * PAGE + 0x10 + len(config)] = config
    kernel.device.write_bytes(data)
    with VfioFunction.open(opened, found) as device:
        device.enable()
        assert device.config_read(0x10, 4) == config[:4]
        assert not device.bus_master
        device.driver.set_bus_master(True)
        assert device.bus_master
        assert device.driver.info().bus_master
        device.bar(1)[8] = 0x1234
        assert device.bar(1) is device.bar(1)
        device.reset()
        assert kernel.resets == 1
        for offset, length in ((256, 1), (255, 2)):
            with pytest.raises(PciError):
                device.config_read(offset, length)
            with pytest.raises(PciError):
                device.config_write(offset, bytes(length))
        with pytest.raises(PciError, match="cannot map BAR4"):
            device.bar(4)
    assert kernel.device.read_bytes()[PAGE + 8 : PAGE + 12] == b"\x34\x12\0\0"
    with pytest.raises(IOBadArgumentError):
        opened.iova.take(bars[0], PAGE)  # its own BAR is not a place for memory
    opened.iova.take(bars[5], PAGE)  # that one has no bytes


def test_msix_by_eventfds(opened: Container, kernel: Kernel, found: PciFunction) -> None:
    with VfioFunction.open(opened, found) as device:
        driver = device.driver
        assert (driver.info().vectors, driver.info().interrupts) == (4, Interrupts.MSIX)
        driver.set_eventfd(2, 50)
        assert kernel.eventfds == {0: -1, 1: -1, 2: 50, 3: -1}
        with pytest.raises(IOBusyError, match=r"vectors \[2\]"):
            driver.set_interrupts(Interrupts.INTX)
        with pytest.raises(IODeviceError, match="vector 4"):
            driver.set_eventfd(4, 50)
        with pytest.raises(IODeviceError, match="INTx is not in use"):
            driver.unmask()
        driver.set_eventfd(2, -1)
        driver.set_interrupts(Interrupts.INTX)
        assert kernel.eventfds == {}
        driver.set_eventfd(0, 51)
        driver.unmask()
        assert (kernel.eventfds, kernel.unmasks) == ({0: 51}, 1)
        driver.close()
        assert kernel.eventfds == {}
        driver.set_interrupts(Interrupts.MSIX)
        kernel.counts[0] = 0
        for kind in (Interrupts.INTX, Interrupts.NONE):
            with pytest.raises(IOUnsupportedError):
                driver.set_interrupts(kind)
        assert driver.info().interrupts is Interrupts.MSIX
    assert driver.closed


def test_what_keeps_a_function_from_being_opened(
    opened: Container, kernel: Kernel, found: PciFunction, tmp_path: Path
) -> None:
    kernel.viable = 0
    with pytest.raises(PciError, match="another device of the group"):
        VfioFunction.open(opened, found)
    kernel.viable = 1
    (tmp_path / "3").unlink()
    with pytest.raises(PciError, match="is the group's other file open"):
        VfioFunction.open(opened, found)
    (found.folder / "iommu_group").unlink()
    with pytest.raises(PciError, match="intel_iommu=on"):
        VfioFunction.open(opened, found)


# The kernel's header.

PROGRAM = """
#include <stddef.h>
#include <stdio.h>
#include <linux/vfio.h>
#define SHOW(name) printf("%s %llu\\n", #name, (unsigned long long)(name))
int main(void)
{
    SHOW(VFIO_GET_API_VERSION); SHOW(VFIO_CHECK_EXTENSION); SHOW(VFIO_SET_IOMMU);
    SHOW(VFIO_GROUP_GET_STATUS); SHOW(VFIO_GROUP_SET_CONTAINER); SHOW(VFIO_GROUP_GET_DEVICE_FD);
    SHOW(VFIO_DEVICE_GET_REGION_INFO); SHOW(VFIO_DEVICE_GET_IRQ_INFO);
    SHOW(VFIO_DEVICE_SET_IRQS); SHOW(VFIO_DEVICE_RESET); SHOW(VFIO_IOMMU_GET_INFO);
    SHOW(VFIO_IOMMU_MAP_DMA); SHOW(VFIO_IOMMU_UNMAP_DMA);
    SHOW(VFIO_API_VERSION); SHOW(VFIO_TYPE1v2_IOMMU); SHOW(VFIO_GROUP_FLAGS_VIABLE);
    SHOW(VFIO_IOMMU_INFO_PGSIZES); SHOW(VFIO_IOMMU_INFO_CAPS);
    SHOW(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE); SHOW(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
    SHOW(VFIO_DMA_MAP_FLAG_READ); SHOW(VFIO_DMA_MAP_FLAG_WRITE);
    SHOW(VFIO_PCI_CONFIG_REGION_INDEX); SHOW(VFIO_REGION_INFO_FLAG_MMAP);
    SHOW(VFIO_PCI_INTX_IRQ_INDEX); SHOW(VFIO_PCI_MSIX_IRQ_INDEX);
    SHOW(VFIO_IRQ_SET_DATA_NONE); SHOW(VFIO_IRQ_SET_DATA_EVENTFD);
    SHOW(VFIO_IRQ_SET_ACTION_UNMASK); SHOW(VFIO_IRQ_SET_ACTION_TRIGGER);
    SHOW(sizeof(struct vfio_region_info)); SHOW(sizeof(struct vfio_irq_info));
    SHOW(sizeof(struct vfio_irq_set)); SHOW(sizeof(struct vfio_group_status));
    SHOW(sizeof(struct vfio_iommu_type1_dma_map));
    SHOW(offsetof(struct vfio_iommu_type1_dma_map, iova));
    SHOW(offsetof(struct vfio_iommu_type1_dma_unmap, iova));
    SHOW(offsetof(struct vfio_iommu_type1_info, cap_offset));
    SHOW(sizeof(struct vfio_info_cap_header));
    SHOW(offsetof(struct vfio_iommu_type1_info_cap_iova_range, iova_ranges));
    SHOW(offsetof(struct vfio_iommu_type1_info_dma_avail, avail));
    return 0;
}
"""


def test_header_and_python_agree(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/linux/vfio.h").exists():
        pytest.skip("no C compiler, or no headers of Linux: install gcc and linux-libc-dev")
    (tmp_path / "abi.c").write_text(PROGRAM)
    binary = tmp_path / "abi"
    subprocess.run([compiler, str(tmp_path / "abi.c"), "-o", str(binary)], check=True)
    output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    shown = {name: int(value) for name, value in (x.rsplit(" ", 1) for x in output.splitlines())}
    assert shown == {
        **{f"VFIO_{each.name}": each.value for each in Request},
        "VFIO_API_VERSION": uapi.API_VERSION,
        "VFIO_TYPE1v2_IOMMU": uapi.TYPE1V2_IOMMU,
        "VFIO_GROUP_FLAGS_VIABLE": uapi.GROUP_VIABLE,
        "VFIO_IOMMU_INFO_PGSIZES": uapi.IommuInfoFlag.PAGE_SIZES,
        "VFIO_IOMMU_INFO_CAPS": uapi.IommuInfoFlag.CAPABILITIES,
        "VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE": uapi.IommuCapability.IOVA_RANGES,
        "VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL": uapi.IommuCapability.DMA_AVAILABLE,
        "VFIO_DMA_MAP_FLAG_READ": uapi.MapFlag.READ,
        "VFIO_DMA_MAP_FLAG_WRITE": uapi.MapFlag.WRITE,
        "VFIO_PCI_CONFIG_REGION_INDEX": uapi.Region.CONFIG,
        "VFIO_REGION_INFO_FLAG_MMAP": uapi.RegionFlag.MMAP,
        "VFIO_PCI_INTX_IRQ_INDEX": uapi.Irq.INTX,
        "VFIO_PCI_MSIX_IRQ_INDEX": uapi.Irq.MSIX,
        "VFIO_IRQ_SET_DATA_NONE": uapi.IrqSetFlag.DATA_NONE,
        "VFIO_IRQ_SET_DATA_EVENTFD": uapi.IrqSetFlag.DATA_EVENTFD,
        "VFIO_IRQ_SET_ACTION_UNMASK": uapi.IrqSetFlag.ACTION_UNMASK,
        "VFIO_IRQ_SET_ACTION_TRIGGER": uapi.IrqSetFlag.ACTION_TRIGGER,
        "sizeof(struct vfio_region_info)": uapi.REGION_INFO.size,
        "sizeof(struct vfio_irq_info)": uapi.IRQ_INFO.size,
        "sizeof(struct vfio_irq_set)": uapi.IRQ_SET.size,
        "sizeof(struct vfio_group_status)": uapi.GROUP_STATUS.size,
        "sizeof(struct vfio_iommu_type1_dma_map)": uapi.MAP_DMA.size,
        "offsetof(struct vfio_iommu_type1_dma_map, iova)": 16,
        "offsetof(struct vfio_iommu_type1_dma_unmap, iova)": 8,
        "offsetof(struct vfio_iommu_type1_info, cap_offset)": 16,
        "sizeof(struct vfio_info_cap_header)": uapi.CAPABILITY.size,
        "offsetof(struct vfio_iommu_type1_info_cap_iova_range, iova_ranges)": (
            uapi.CAPABILITY.size + uapi.IOVA_RANGES.size
        ),
        "offsetof(struct vfio_iommu_type1_info_dma_avail, avail)": uapi.CAPABILITY.size,
    }
