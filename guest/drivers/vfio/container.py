# SPDX-License-Identifier: Apache-2.0
"""A VFIO container: memory mapped for the devices of its groups, and its bus addresses."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import weakref
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.drivers.vfio import uapi
from dma_rehearsal.guest.drivers.vfio.iova import IovaAllocator
from dma_rehearsal.guest.drivers.vfio.uapi import IommuCapability, IommuInfoFlag, MapFlag, Request
from dma_rehearsal.guest.iobuffer.base import deferred
from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IOBusyError,
    IODeviceError,
    IOReturn,
    IOReturnError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.descriptors import preparation

CONTAINER: Final = Path("/dev/vfio/vfio")
ENTRY_LIMIT: Final = Path("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
_CAPABILITIES_MAX: Final = 16
_INFO_MAX: Final = 1 << 16
_MADV_POPULATE_WRITE: Final = 23  # asm-generic/mman-common.h, from Linux 5.14 on

_libc: Final = ctypes.CDLL(None)


class Iova(Closing):
    """Memory that is mapped for the devices of a container; made by `Container.map`.

    ``length`` bytes of this process's memory at ``va`` are at bus address ``address``, pinned.
    A context manager that ends that. ``read`` and ``write`` are what the device was to be allowed.

    Do not give the memory back (munmap, MADV_DONTNEED) before `close`: the device keeps the pages,
    and the process would get others.
    """

    def __init__(
        self,
        container: Container,
        address: int,
        va: int,
        length: int,
        *,
        read: bool,
        write: bool,
    ) -> None:
        self.address, self.va, self.length = address, va, length
        self.read, self.write = read, write
        self.unmapped = 0
        """Bytes that the kernel has unmapped so far."""
        self._grants: preparation.Grants | None = None
        self._container: Container | None = container
        self._pid = os.getpid()

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """The (bus address, length) of each part, as the device sees them: one."""
        return ((self.address, self.length),)

    @property
    def direction(self) -> IODirection:
        """The device's rights to this mapping, as a direction."""
        rights = IODirection.kIODirectionOut * self.read | IODirection.kIODirectionIn * self.write
        return IODirection(rights)

    @property
    def closed(self) -> bool:
        """Whether the device cannot reach the memory any more."""
        return self._container is None or self._container.closed

    def permit(self) -> None:
        """Grant the device the mapping's rights; `IOReturnError` when the unit is full."""
        self._grants = preparation.Grants(self.segments, self.direction)

    def close(self) -> None:
        """End the mapping; no device reaches the memory when this returns. Again is nothing.

        After an error it is as it was, and its bus addresses are nobody else's: call it again. A
        forked child, which has the container's descriptor as well, leaves it to its parent.
        """
        if os.getpid() != self._pid:
            return
        if self._grants is not None:
            self._grants.withdraw()
        if self._container is not None and not self._container.closed:
            self._container.unmap(self)
        self._container = None


class Container(Closing):
    """/dev/vfio/vfio with the type 1 IOMMU. A context manager; closing it ends every mapping.

    It can map when `attach` has put a group into it. ``iova`` has the bus addresses then, ``page``
    the size and alignment of what can be mapped. Raises `IODeviceError`.
    """

    def __init__(self, path: Path = CONTAINER) -> None:
        self.path = path
        self.page = 0
        self.iova = IovaAllocator((), 1)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise IODeviceError(
                f"{path}: {error.strerror}; is the module vfio loaded?",
                code=IOReturn.kIOReturnNotAttached,
            ) from error
        self._finalizer = weakref.finalize(self, os.close, self._fd)
        version = fcntl.ioctl(self._fd, Request.GET_API_VERSION)
        if version != uapi.API_VERSION or not fcntl.ioctl(
            self._fd, Request.CHECK_EXTENSION, uapi.TYPE1V2_IOMMU
        ):
            self.close()
            raise IODeviceError(f"{path}: version {version}, or no type 1 IOMMU (v2)")

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def attach(self, group: int) -> None:
        """Put a group, an open file of it, into the container; `IODeviceError` on failure.

        The first group decides which bus addresses can be mapped.
        """
        try:
            fcntl.ioctl(group, Request.GROUP_SET_CONTAINER, self._fd.to_bytes(4, "little"))
            if not self.page:
                fcntl.ioctl(self._fd, Request.SET_IOMMU, uapi.TYPE1V2_IOMMU)
                self._take_info()
        except OSError as error:
            why = ""
            if error.errno == errno.EPERM:
                why = "; VFIO wants an IOMMU that remaps interrupts (intremap=on)"
            raise IODeviceError(
                f"{self.path}: the group cannot be put into it: {error}{why}"
            ) from (error)

    def set_mask(self, bits: int) -> None:
        """Place no further mapping beyond 2**``bits``, for a device that drives no more bits.

        It corresponds to dma_set_mask in the kernel; of several devices the narrowest
        counts. Call it after `attach`. `IOBadArgumentError` for less than a page.
        """
        if not self.page or not self.page.bit_length() <= bits <= 64:
            raise IOBadArgumentError(
                f"a mask of {bits} bits: up to 64, and more than a page of {self.page} bytes; "
                "attach a group before"
            )
        self.iova.narrow(bits)

    def available(self) -> int | None:
        """The number of further mappings that the kernel takes; None when it does not say."""
        return self._info()[2]

    def map(
        self,
        va: int,
        length: int,
        *,
        read: bool,
        write: bool,
        address: int | None = None,
        alignment: int = 1,
        bits: int = 64,
        grant: bool = True,
    ) -> Iova:
        """Pin this process's memory at ``va`` and let the devices ``read`` or ``write`` it.

        It may be memory of any kind; ``va`` and ``length`` are multiples of ``page``. ``address``
        is the bus address that is wanted; else one is chosen, at a multiple of ``alignment`` and
        below 2**``bits``.

        An IOMMU may grant more than was asked: Intel's driver lets a device read what was mapped
        for writes alone. Where an access control is set (`Platform.access_control`) it is told just
        what was asked, unless ``grant`` is False: the allocator grants what is prepared, to the
        byte.

        `IOBadArgumentError`, `IONoMemoryError` (no bus addresses), `IOBusyError`; `IODeviceError`
        with kIOReturnNoResources past the kernel's limit of mappings, kIOReturnCannotWire past
        that of locked memory, kIOReturnVMError where the memory is not there or not writable.
        """
        if not self.page:
            raise IODeviceError(
                f"{self.path} has no group yet", code=IOReturn.kIOReturnNotReady, length=length
            )
        if not (read or write):
            raise IOBadArgumentError("a mapping that lets the device neither read nor write")
        if length <= 0 or (va | length) % self.page:
            raise IOBadArgumentError(
                f"{length} bytes at {va:#x}: whole pages of {self.page} bytes can be mapped",
                address=va,
                length=length,
            )
        _populate(va, length)
        if address is None:
            address = self.iova.allocate(length, alignment, bits=bits)
        else:
            self.iova.take(address, length)
        flags = MapFlag.READ * read | MapFlag.WRITE * write
        try:
            uapi.call(self._fd, Request.IOMMU_MAP_DMA, uapi.MAP_DMA, flags, va, address, length)
        except OSError as error:
            self.iova.free(address, used=False)
            raise _not_mapped(error, va, length) from error
        iova = Iova(self, address, va, length, read=read, write=write)
        if grant:
            try:
                iova.permit()
            except BaseException as error:
                undo(error, iova.close)
                if not iova.closed:
                    deferred.finalize(iova.close, f"{length} bytes at bus address {address:#x}")
                raise
        return iova

    def unmap(self, iova: Iova) -> None:
        """End a mapping, see `Iova.close`; `IODeviceError` when the kernel ended a part of it."""
        try:
            *_, size = uapi.call(
                self._fd, Request.IOMMU_UNMAP_DMA, uapi.UNMAP_DMA, 0, iova.address, iova.length
            )
        except OSError as error:
            raise IODeviceError(
                f"unmapping {iova.length} bytes at bus address {iova.address:#x}: {error}",
                code=IOReturn.kIOReturnVMError,
                address=iova.address,
                length=iova.length,
            ) from error
        iova.unmapped += size
        if iova.unmapped < iova.length:
            raise IODeviceError(
                f"the kernel unmapped {size} of {iova.length} bytes at bus address "
                f"{iova.address:#x}",
                code=IOReturn.kIOReturnVMError,
                address=iova.address,
                length=iova.length,
            )
        self.iova.free(iova.address)

    def close(self) -> None:
        """Close the file, and with it every mapping once its groups are closed, too."""
        self._fd = -1
        self._finalizer()

    def _take_info(self) -> None:
        self.page, ranges, _ = self._info()
        self.iova = IovaAllocator(ranges, self.page)

    def _info(self) -> tuple[int, list[tuple[int, int]], int | None]:
        """Return the smallest page, the bus addresses (first, last), the mappings left."""
        header = uapi.IOMMU_INFO
        size = uapi.call(self._fd, Request.IOMMU_GET_INFO, header, 0, 0, 0, 0)[0]
        data = bytearray(max(header.size, min(size, _INFO_MAX)))
        header.pack_into(data, 0, len(data), 0, 0, 0, 0)
        fcntl.ioctl(self._fd, Request.IOMMU_GET_INFO, data)
        _, flags, sizes, place, _ = header.unpack_from(data)
        if not flags & IommuInfoFlag.PAGE_SIZES or not sizes:
            raise IODeviceError(f"{self.path}: the IOMMU does not tell its page sizes")
        ranges, left = [(0, (1 << 64) - 1)], None
        for _ in range(_CAPABILITIES_MAX):
            if not flags & IommuInfoFlag.CAPABILITIES or not place:
                break
            identity, _, following = uapi.CAPABILITY.unpack_from(data, place)
            place += uapi.CAPABILITY.size
            if identity == IommuCapability.IOVA_RANGES:
                count, _ = uapi.IOVA_RANGES.unpack_from(data, place)
                place += uapi.IOVA_RANGES.size
                ranges = [
                    uapi.IOVA_RANGE.unpack_from(data, place + index * uapi.IOVA_RANGE.size)
                    for index in range(count)
                ]
            elif identity == IommuCapability.DMA_AVAILABLE:
                (left,) = uapi.DMA_AVAILABLE.unpack_from(data, place)
            place = following
        return sizes & -sizes, ranges, left


def _populate(va: int, length: int) -> None:
    """Give this process pages of its own in the range.

    Where it has stored nothing yet, a mapping for reads alone would pin the kernel's page of zeros
    for the device, and the first store would give the process another page. Memory that is not
    page's own, such as a carve-out's, needs none of it and refuses it; what is wrong with the rest
    VFIO says.
    """
    _libc.madvise(ctypes.c_void_p(va), ctypes.c_size_t(length), _MADV_POPULATE_WRITE)


def _not_mapped(error: OSError, va: int, length: int) -> IOReturnError:
    """Return what says why memory was not mapped, and what to do next."""
    where = f"mapping {length} bytes at {va:#x} for the device"
    if error.errno == errno.EEXIST:
        return IOBusyError(f"{where}: the bus addresses are mapped", address=va, length=length)
    code, why = IOReturn.kIOReturnError, str(error)
    if error.errno == errno.ENOSPC:
        code = IOReturn.kIOReturnNoResources
        limit = ENTRY_LIMIT.read_text().strip() if ENTRY_LIMIT.exists() else "unknown"
        why = (
            f"the container has as many mappings as it takes (dma_entry_limit {limit} of the "
            "module vfio_iommu_type1); map larger ranges, or raise it"
        )
    elif error.errno == errno.ENOMEM:
        code = IOReturn.kIOReturnCannotWire
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        why = (
            f"no memory, or more than this process may lock (RLIMIT_MEMLOCK {soft} bytes): raise "
            "that, or give it CAP_IPC_LOCK"
        )
    elif error.errno in (errno.EFAULT, errno.EPERM):
        code, why = IOReturn.kIOReturnVMError, f"nothing is there, or it is read-only ({error})"
    elif error.errno == errno.EINVAL:
        code = IOReturn.kIOReturnBadArgument
    return IODeviceError(f"{where}: {why}", code=code, address=va, length=length)
