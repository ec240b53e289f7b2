# SPDX-License-Identifier: Apache-2.0
"""A PCI function that VFIO gives to this process, with the interface of `PciFunction`."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.vfio import uapi
from dma_rehearsal.guest.drivers.vfio.container import Container
from dma_rehearsal.guest.drivers.vfio.uapi import Irq, IrqSetFlag, Region, RegionFlag, Request
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IODeviceError,
    IOReturn,
    IOUnsupportedError,
)
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts, PciInfo

GROUPS: Final = Path("/dev/vfio")
DRIVER: Final = "vfio-pci"
_NO_EVENTFD: Final = -1
_BARS: Final = 6
_INDEX: Final = {Interrupts.MSIX: Irq.MSIX, Interrupts.INTX: Irq.INTX}


def bind(function: PciFunction) -> None:
    """Bind a function to vfio-pci, and unbind it from another driver first. `PciError`.

    It stays so until something else takes it.
    """
    link = function.folder / "driver"
    if link.is_symlink() and link.readlink().name != DRIVER:
        try:
            (link / "unbind").write_text(function.address)
        except OSError as error:
            raise PciError(f"{function.address}: unbinding: {error.strerror}") from error
    function.bind(DRIVER)


class VfioFunction(PciFunction):
    """One function, opened through its group; a context manager. Opening and closing resets it.

    Configuration space and BARs are VFIO's, and so is reset; ``driver`` gives bus mastering and
    interrupts.
    """

    def __init__(self, folder: Path, group: int, device: int) -> None:
        super().__init__(folder)
        self._group, self._device = group, device
        self._finalizer = weakref.finalize(self, _close, device, group)
        self.driver = VfioDriver(self)

    @classmethod
    def open(cls, container: Container, function: PciFunction) -> Self:
        """Bind ``function`` to vfio-pci, put its group into ``container``, open it.

        From then on no memory is mapped at its BARs' addresses. `PciError`, `IODeviceError`.
        """
        bind(function)
        group = _open_group(function)
        try:
            container.attach(group)
            name = bytearray(function.address.encode() + b"\0")
            device = fcntl.ioctl(group, Request.GROUP_GET_DEVICE_FD, name)
        except OSError as error:
            os.close(group)
            raise PciError(f"{function.address}: VFIO does not open it: {error}") from error
        except BaseException:
            os.close(group)
            raise
        opened = cls(function.folder, group, device)
        try:
            for number in range(_BARS):
                if size := opened._region(number)[2]:
                    container.iova.reserve(opened.bar_address(number), size)
        except BaseException:
            opened.close()
            raise
        return opened

    @property
    def device_fd(self) -> int:
        """The device's file; -1 when it is closed."""
        return self._device

    def enable(self) -> None:
        """Do nothing: VFIO has turned memory decoding on."""

    def _map_bar(self, number: int) -> mmap.mmap:
        flags, place, size = self._region(number)
        if not flags & RegionFlag.MMAP or size % mmap.PAGESIZE:
            raise OSError(errno.ENODEV, f"{size} bytes that VFIO does not map")
        return mmap.mmap(self._device, size, offset=place)

    def config_read(self, offset: int, length: int) -> bytes:
        """See `PciFunction.config_read`."""
        _, place, size = self._region(Region.CONFIG)
        data = b""
        if offset + length <= size:
            data = os.pread(self._device, length, place + offset)
        if len(data) != length:
            raise PciError(f"{self.address}: {len(data)} of {length} bytes at config {offset:#x}")
        return data

    def config_write(self, offset: int, data: bytes) -> None:
        """See `PciFunction.config_write`."""
        _, place, size = self._region(Region.CONFIG)
        if offset + len(data) > size:
            raise PciError(f"{self.address}: {len(data)} bytes at config {offset:#x}")
        os.pwrite(self._device, data, place + offset)

    def reset(self) -> None:
        """Reset the function by VFIO, an FLR where it has that; the mappings stay."""
        try:
            fcntl.ioctl(self._device, Request.DEVICE_RESET)
        except OSError as error:
            raise PciError(f"{self.address}: reset: {error.strerror}") from error

    def close(self) -> None:
        """Unmap the BARs and give the function back; closing again does nothing."""
        super().close()
        self._device = self._group = -1
        self._finalizer()

    def _region(self, number: int) -> tuple[int, int, int]:
        """Return a region's flags, its place in the device's file, its size in bytes."""
        try:
            _, flags, _, _, size, place = uapi.call(
                self._device, Request.DEVICE_GET_REGION_INFO, uapi.REGION_INFO, 0, number, 0, 0, 0
            )
        except OSError as error:
            raise PciError(f"{self.address}: region {number}: {error.strerror}") from error
        return flags, place, size


class VfioDriver:
    """Bus mastering and interrupts of a `VfioFunction`, like `DriverFunction`.

    It uses MSI-X until `set_interrupts` says otherwise. The function has one owner, so no other
    open file can hold a vector.
    """

    def __init__(self, function: VfioFunction) -> None:
        self._function = function
        self._kind = Interrupts.MSIX
        self._enabled = False
        self._held: set[int] = set()

    @property
    def closed(self) -> bool:
        """Whether the function is closed, and the eventfds are taken away."""
        return self._function.device_fd < 0

    def info(self) -> PciInfo:
        """See `DriverFunction.info`."""
        index = _INDEX[self._kind]
        *_, count = self._call(Request.DEVICE_GET_IRQ_INFO, uapi.IRQ_INFO, 0, index, 0)
        return PciInfo(count, self._function.bus_master, self._kind)

    def set_bus_master(self, on: bool) -> None:
        """Turn bus mastering on or off."""
        self._function.bus_master = on

    def set_eventfd(self, vector: int, fd: int) -> None:
        """Have the vector's interrupts signal ``fd``, an eventfd; -1 stops that.

        `IODeviceError` (kIOReturnBadArgument) for a vector that does not exist.
        """
        vectors = self.info().vectors
        if not 0 <= vector < vectors:
            raise IODeviceError(f"vector {vector}", code=IOReturn.kIOReturnBadArgument)
        if self._kind is Interrupts.MSIX and not self._enabled:
            # The kernel allocates as many vectors as the first call names.
            self._set(IrqSetFlag.ACTION_TRIGGER, 0, [_NO_EVENTFD] * vectors)
        self._enabled = True
        self._set(IrqSetFlag.ACTION_TRIGGER, vector, [fd])
        self._held.discard(vector)
        if fd >= 0:
            self._held.add(vector)

    def set_interrupts(self, kind: Interrupts) -> None:
        """Choose between MSI-X and INTx; `IOBusyError` while a vector has an eventfd.

        `IOUnsupportedError` when the function has no such interrupts.
        """
        if self._held:
            raise IOBusyError(f"vectors {sorted(self._held)} have eventfds")
        if kind not in _INDEX:
            raise IOUnsupportedError(f"interrupts by {kind.name}")
        if self._enabled:
            self._set(IrqSetFlag.ACTION_TRIGGER, 0, [])
            self._enabled = False
        before, self._kind = self._kind, kind
        if not self.info().vectors:
            self._kind = before
            raise IOUnsupportedError(f"{self._function.address} has no interrupts by {kind.name}")

    def unmask(self) -> None:
        """See `DriverFunction.unmask`."""
        if self._kind is not Interrupts.INTX or not self._held:
            raise IODeviceError(
                "INTx is not in use, or has no eventfd", code=IOReturn.kIOReturnBadArgument
            )
        flags = IrqSetFlag.DATA_NONE | IrqSetFlag.ACTION_UNMASK
        size = uapi.IRQ_SET.size
        self._ioctl(Request.DEVICE_SET_IRQS, uapi.IRQ_SET.pack(size, flags, Irq.INTX, 0, 1))

    def close(self) -> None:
        """Take every eventfd away; the function stays open."""
        if not self.closed and (self._held or self._enabled):
            with suppress(IODeviceError):
                self._set(IrqSetFlag.ACTION_TRIGGER, 0, [])
        self._held.clear()
        self._enabled = False

    def _set(self, action: IrqSetFlag, start: int, fds: list[int]) -> None:
        """Give vectors eventfds; an empty list ends the interrupts of this kind."""
        data = struct.pack(f"<{len(fds)}i", *fds)
        flags = action | (IrqSetFlag.DATA_EVENTFD if fds else IrqSetFlag.DATA_NONE)
        header = uapi.IRQ_SET.pack(
            uapi.IRQ_SET.size + len(data), flags, _INDEX[self._kind], start, len(fds)
        )
        self._ioctl(Request.DEVICE_SET_IRQS, header + data)

    def _call(self, request: Request, record: struct.Struct, *values: int) -> tuple[int, ...]:
        try:
            return uapi.call(self._function.device_fd, request, record, *values)
        except OSError as error:
            raise self._failed(request, error) from error

    def _ioctl(self, request: Request, data: bytes) -> None:
        try:
            fcntl.ioctl(self._function.device_fd, request, data)
        except OSError as error:
            raise self._failed(request, error) from error

    def _failed(self, request: Request, error: OSError) -> IODeviceError:
        bad = error.errno in (errno.EINVAL, errno.EBADF)
        return IODeviceError(
            f"{self._function.address}: {request.name}: {error}",
            code=IOReturn.kIOReturnBadArgument if bad else IOReturn.kIOReturnError,
        )


def _open_group(function: PciFunction) -> int:
    link = function.folder / "iommu_group"
    if not link.is_symlink():
        raise PciError(
            f"{function.address} is in no IOMMU group: boot with an IOMMU that is on "
            "(intel_iommu=on)"
        )
    path = GROUPS / link.readlink().name
    try:
        group = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PciError(f"{path}: {error.strerror}; is the group's other file open?") from error
    _, flags = uapi.call(group, Request.GROUP_GET_STATUS, uapi.GROUP_STATUS, 0)
    if not flags & uapi.GROUP_VIABLE:
        os.close(group)
        raise PciError(f"{path}: another device of the group has a driver that is not VFIO's")
    return group


def _close(device: int, group: int) -> None:
    os.close(device)
    os.close(group)
