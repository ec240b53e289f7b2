# SPDX-License-Identifier: Apache-2.0
"""The kernel module's device files; `uapi` has its ioctls and structures."""

from __future__ import annotations

import ctypes
import errno
import fcntl
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, Final

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBusyError,
    IODeviceError,
    IOReturn,
    IOReturnError,
    IOUnsupportedError,
    of_the_system,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.os.device_file import DeviceFile, code_of, open_device
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap, Pin, cannot_wire
from dma_rehearsal.guest.iobuffer.os.uapi import (
    BUS_MASTER,
    BUS_MASTER_STRUCT,
    COPY_STRUCT,
    EVENTFD,
    EVENTFD_STRUCT,
    INFO,
    INFO_STRUCT,
    INTERRUPTS_STRUCT,
    KMAP,
    KMAP_STRUCT,
    MODE_SHIFT,
    PCI_INFO,
    PCI_INFO_STRUCT,
    PIN,
    PIN_STRUCT,
    PIN_WRITE,
    QUERY,
    QUERY_STRUCT,
    READ,
    SET_INTERRUPTS,
    UNMASK,
    VERSION,
    WRITE,
)
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement

DEVICE: Final = Path("/dev/dma-rehearsal")


@dataclass(frozen=True, slots=True)
class PageTableEntry:
    """The page-table entry of one virtual address of this process, as the processor finds it.

    ``root`` is the physical address of the top table; ``levels`` is 4 or 5; ``entry`` the leaf as
    it is in memory, 0 without one; ``level`` 1, 2 or 3 for 4 KiB, 2 MiB or 1 GiB.
    """

    address: int
    root: int
    entry: int
    level: int
    levels: int


def _failed(what: str, error: OSError, address: int, length: int) -> IOReturnError:
    where = f"{what} of {length} bytes at {address:#x}"
    if error.errno == errno.EBUSY:
        return IOBusyError(
            f"{where}: the range is mapped with another cache mode",
            address=address,
            length=length,
        )
    if error.errno == errno.EOPNOTSUPP:
        return IOUnsupportedError(
            f"{where}: this kernel's PAT has no entry for the cache mode",
            address=address,
            length=length,
        )
    if error.errno in (errno.ERANGE, errno.EINVAL):
        outside = error.errno == errno.ERANGE
        return IODeviceError(
            f"{where}: {'not inside one carve-out' if outside else 'no such cache mode or place'}",
            code=IOReturn.kIOReturnBadArgument,
            address=address,
            length=length,
        )
    return of_the_system(what, error, length=length, address=address)


class Driver(DeviceFile):
    """/dev/dma-rehearsal: mappings with a stated cache mode, and questions about them.

    Raises `IODeviceError` when the module is not loaded or is of another version.
    """

    def __init__(self, path: Path = DEVICE) -> None:
        super().__init__(open_device(path), str(path))
        version, self.zones = self._get(INFO, INFO_STRUCT)
        if version != VERSION:
            self.close()
            raise IODeviceError(f"{path}: version {version}, and this library speaks {VERSION}")

    def map(
        self, physical: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> Mapping:
        """Map whole pages of one carve-out, shared and writable, with just this cache mode.

        `IOBusyError` when they are mapped with another one; `IODeviceError` (kIOReturnBadArgument)
        outside the carve-outs; `IOUnsupportedError` when the kernel has no such mode.
        """
        try:
            uncached = mode is CacheMode.INHIBIT
            place = mode << MODE_SHIFT | physical
            return Mapping(self._fd, length, place, placement, uncached=uncached)
        except OSError as error:
            raise _failed("mapping", error, physical, length) from error

    def query(self, address: int) -> PageTableEntry:
        """Look up a virtual address of this process; `IODeviceError` where nothing is mapped."""
        request = bytearray(QUERY_STRUCT.pack(address, 0, 0, 0, 0))
        try:
            fcntl.ioctl(self._fd, QUERY, request)
        except OSError as error:
            raise IODeviceError(
                f"query of {address:#x}: {error}", code=IOReturn.kIOReturnVMError, address=address
            ) from error
        address, root, entry, level, levels = QUERY_STRUCT.unpack(request)
        return PageTableEntry(address, root, entry, level, levels)

    def read(self, physical: int, length: int, mode: CacheMode) -> bytes:
        """Return bytes of one carve-out as the kernel sees them; errors as for `map`."""
        data = bytearray(length)
        self._copy(READ, physical, data, mode)
        return bytes(data)

    def write(self, physical: int, data: bytes, mode: CacheMode) -> None:
        """Let the kernel store ``data`` into one carve-out; errors as for `map`."""
        self._copy(WRITE, physical, bytearray(data), mode)

    def pin(self, address: int, length: int, *, write: bool = True) -> Pin:
        """Keep ``length`` bytes of this process where they are, for a device; see `Pin`.

        ``write`` is for memory that a device, or the kernel, shall store into; without it the
        mapping need not be writable. Anonymous memory, memfd, tmpfs and hugetlb can be pinned.
        `IOCannotWireError` says why the memory cannot be, and which limit was in the way; a range
        that is not a range is an `IODeviceError` (kIOReturnBadArgument).
        """
        if not (length > 0 <= address and address + length <= 1 << 64):
            raise IODeviceError(
                f"pinning {length} bytes at {address:#x}: not a range of the address space",
                code=IOReturn.kIOReturnBadArgument,
                address=address,
                length=length,
            )
        request = bytearray(PIN_STRUCT.pack(address, length, PIN_WRITE if write else 0, 0))
        try:
            # Of bytes, ioctl() would return a copy, and not the descriptor.
            fd = fcntl.ioctl(self._fd, PIN, request)
        except OSError as error:
            raise cannot_wire(error, address, length, write=write) from error
        return Pin.from_fd(fd)

    def kernel_map(self, physical: int, length: int, mode: CacheMode) -> KernelMap:
        """Have the kernel map bytes of one carve-out with just this cache mode; see `KernelMap`.

        Any start and length; whole pages are mapped. Errors as for `map`.
        """
        if not (0 <= physical < 1 << 64 and 0 <= length < 1 << 64):
            error = OSError(errno.ERANGE, "no range of physical memory")
            raise _failed("kernel mapping", error, physical, length)
        request = bytearray(KMAP_STRUCT.pack(physical, length, mode, 0))
        try:
            fd = fcntl.ioctl(self._fd, KMAP, request)
        except OSError as error:
            raise _failed("kernel mapping", error, physical, length) from error
        return KernelMap.from_fd(fd)

    def _copy(self, command: int, physical: int, data: bytearray, mode: CacheMode) -> None:
        # An empty buffer has no address; the driver refuses length 0 before it looks.
        user = ctypes.addressof(ctypes.c_char.from_buffer(data)) if data else 0
        request = COPY_STRUCT.pack(physical, len(data), user, mode, 0)
        try:
            fcntl.ioctl(self._fd, command, request)
        except OSError as error:
            what = "kernel read" if command == READ else "kernel write"
            raise _failed(what, error, physical, len(data)) from error


class Interrupts(IntEnum):
    """The interrupts of a PCI function. NONE: neither MSI-X nor INTx was available."""

    NONE = 0
    MSIX = 1
    INTX = 2


@dataclass(frozen=True, slots=True)
class PciInfo:
    """The state of the driver's PCI function. INTx is one vector, number 0."""

    vectors: int
    bus_master: bool
    interrupts: Interrupts


class DriverFunction(DeviceFile):
    """/dev/dma-rehearsal-pciN: bus mastering, and an eventfd for each MSI-X vector, or for INTx.

    Eventfds, and the choice of `set_interrupts`, belong to this open file: closing it takes the
    eventfds away from their vectors, and the function is as it came up.

    Bus mastering is on from the first open of all processes on. The last close, which a process
    that was killed makes as well, turns it off, and resets the function where it can be: no DMA
    outlives the processes that could have started it. A forked child has its parent's closed, and
    opens the function anew to use it.
    """

    closed_by_fork: ClassVar[int | None] = 0  # before the pins of pages that it may do DMA to

    def __init__(self, path: Path) -> None:
        super().__init__(open_device(path), str(path))
        version = self._get(PCI_INFO, PCI_INFO_STRUCT)[0]
        if version != VERSION:
            self.close()
            raise IODeviceError(f"{path}: version {version}, and this library speaks {VERSION}")

    def info(self) -> PciInfo:
        """Ask for the number of vectors, whether bus mastering is on, and the interrupts' kind."""
        _, vectors, bus_master, interrupts = self._get(PCI_INFO, PCI_INFO_STRUCT)
        return PciInfo(vectors, bool(bus_master), Interrupts(interrupts))

    def set_bus_master(self, on: bool) -> None:
        """Turn bus mastering on or off. Off also stops MSI-X, whose messages are writes."""
        self._set(BUS_MASTER, BUS_MASTER_STRUCT.pack(on), "bus mastering")

    def set_eventfd(self, vector: int, fd: int) -> None:
        """Have the vector's interrupts signal ``fd``, an eventfd; -1 stops that.

        `IOBusyError` when another open file holds the vector; `IODeviceError`
        (kIOReturnBadArgument) for a vector that does not exist.
        """
        if not 0 <= vector < 1 << 32:
            raise IODeviceError(f"vector {vector}", code=IOReturn.kIOReturnBadArgument)
        self._set(EVENTFD, EVENTFD_STRUCT.pack(vector, fd), f"eventfd {fd} for vector {vector}")

    def set_interrupts(self, kind: Interrupts) -> None:
        """Choose between MSI-X and INTx, until this file chooses again or is closed.

        `IOBusyError` while a vector has an eventfd, or another open file has chosen;
        `IOUnsupportedError` when the function, or the machine, has no such interrupts.
        """
        self._set(SET_INTERRUPTS, INTERRUPTS_STRUCT.pack(kind), f"interrupts by {kind.name}")

    def unmask(self) -> None:
        """Let the next INTx through; one that is pending already signals the eventfd at once.

        `IODeviceError` (kIOReturnBadArgument) without INTx, or without an eventfd for it;
        `IOBusyError` when that is another open file's.
        """
        self._set(UNMASK, b"", "unmasking INTx")

    def _set(self, command: int, request: bytes, what: str) -> None:
        try:
            fcntl.ioctl(self._fd, command, request)
        except OSError as error:
            message = f"{self.name}: {what}: {error}"
            if error.errno == errno.EBUSY:
                raise IOBusyError(f"{message}: an eventfd, or another open file, holds it") from (
                    error
                )
            if error.errno == errno.EOPNOTSUPP:
                raise IOUnsupportedError(message) from error
            raise IODeviceError(message, code=code_of(error)) from error
