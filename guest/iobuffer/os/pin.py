# SPDX-License-Identifier: Apache-2.0
"""Pinned user memory, and the kernel's own mappings: files that the module's ioctls return.

Each lasts until its last descriptor is closed: by `close`, by the end of the process, and in every
process that received it over a socket; a forked child keeps none. So a process leaves nothing
behind, and takes nothing away that another one still uses.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, Self

from dma_rehearsal.guest.iobuffer.base.errors import (
    IOCannotWireError,
    IODeviceError,
    IOReturn,
    IOReturnError,
)
from dma_rehearsal.guest.iobuffer.base.options import CacheMode
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os.device_file import DeviceFile, code_of
from dma_rehearsal.guest.iobuffer.os.uapi import (
    KMAP_INFO,
    KMAP_INFO_STRUCT,
    PIN_INFO,
    PIN_INFO_STRUCT,
    PIN_KMAP,
    PIN_MAX,
    PIN_PAGES,
    PIN_PAGES_STRUCT,
    PIN_WRITE,
)

_PAGES_AT_ONCE: Final = 1 << 16


def cannot_wire(error: OSError, address: int, length: int, *, write: bool) -> IOReturnError:
    """Return the meaning of a refused ioctl PIN."""
    limit = None
    if error.errno == errno.EFAULT:
        why = f"a page is not mapped{' writable' * write}, or a carve-out's, which never moves"
    elif error.errno == errno.EOPNOTSUPP:
        why = "a page is of a file with a backing store; use anonymous memory, memfd or hugetlb"
    elif error.errno == errno.E2BIG:
        limit = PIN_MAX
        why = f"one pin has at most {limit} bytes"
    elif error.errno == errno.ENOMEM:
        soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        limit = None if soft == resource.RLIM_INFINITY else soft
        why = "out of memory" if limit is None else f"out of memory, or of RLIMIT_MEMLOCK ({limit})"
    else:
        why = str(error)
    return IOCannotWireError(
        f"pinning {length} bytes at {address:#x}: {why}",
        address=address,
        length=length,
        limit=limit,
    )


class _Bytes(DeviceFile):
    """A file whose bytes are memory."""

    closed_by_fork: ClassVar[int | None] = 1
    length: int

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes as the kernel sees them; `IODeviceError` (BadArgument) outside."""
        self._check(offset, length)
        data = bytearray()
        while len(data) < length:
            try:
                part = os.pread(self._fd, length - len(data), offset + len(data))
            except OSError as error:
                raise self._failed("read", error, length) from error
            data += part
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Let the kernel store ``data``; `IODeviceError` (BadArgument) outside.

        kIOReturnNotWritable when the memory was pinned without ``write``.
        """
        self._check(offset, len(data))
        done = 0
        with memoryview(data) as view:
            while done < len(data):
                try:
                    done += os.pwrite(self._fd, view[done:], offset + done)
                except OSError as error:
                    raise self._failed("write", error, len(data)) from error

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.length:
            raise IODeviceError(
                f"{self.name}: {length} bytes at offset {offset} of {self.length}",
                code=IOReturn.kIOReturnBadArgument,
                length=length,
            )

    def _failed(self, what: str, error: OSError, length: int) -> IODeviceError:
        code = code_of(error)
        if what == "write" and error.errno == errno.EBADF and not self.closed:
            code = IOReturn.kIOReturnNotWritable
        return IODeviceError(
            f"{self.name}: {what} of {length} bytes: {error.strerror}", code=code, length=length
        )


class Pin(_Bytes):
    """User memory whose pages stay where they are while this is open; see `Driver.pin`.

    It has the pages of the moment that it was made: a mapping that is replaced later (munmap,
    MADV_DONTNEED) leaves the device with the old ones. Attributes: ``length`` in bytes, ``offset``
    of the first byte in the first page, ``pages`` how many, ``writable``.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "pin")
        with self._closed_on_error():
            self.pages, self.length, self.offset, flags = self._get(PIN_INFO, PIN_INFO_STRUCT)
        self.writable = bool(flags & PIN_WRITE)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over a descriptor, such as one that came over a socket.

        `IODeviceError` (kIOReturnBadArgument) for any other file; it is closed then, too.
        """
        return cls(fd)

    def segments(self) -> list[tuple[int, int]]:
        """Return (physical address, length in bytes) in order, adjacent ones merged."""
        merged: list[tuple[int, int]] = []
        left = self.offset + self.length
        for page in self._page_addresses():
            part = min(left, PAGE)
            left -= part
            if merged and sum(merged[-1]) == page:
                merged[-1] = (merged[-1][0], merged[-1][1] + part)
            else:
                merged.append((page, part))
        start, length = merged[0]
        merged[0] = (start + self.offset, length - self.offset)
        return merged

    def kernel_map(self) -> KernelMap:
        """Have the kernel map the pages one after the other, write-back; it holds them pinned.

        `IODeviceError` (kIOReturnNoMemory) when the kernel cannot.
        """
        try:
            fd = fcntl.ioctl(self._fd, PIN_KMAP)
        except OSError as error:
            code = IOReturn.kIOReturnNoMemory if error.errno == errno.ENOMEM else code_of(error)
            raise IODeviceError(
                f"kernel mapping of {self.length} pinned bytes: {error.strerror}",
                code=code,
                length=self.length,
            ) from error
        return KernelMap.from_fd(fd)

    def _page_addresses(self) -> array.array[int]:
        found = array.array("Q")
        part = array.array("Q", bytes(8 * min(self.pages, _PAGES_AT_ONCE)))
        while len(found) < self.pages:
            request = bytearray(
                PIN_PAGES_STRUCT.pack(len(found), part.buffer_info()[0], len(part), 0)
            )
            try:
                count = fcntl.ioctl(self._fd, PIN_PAGES, request)
            except OSError as error:
                raise IODeviceError(f"pages of a pin: {error}", code=code_of(error)) from error
            found += part[:count]
        return found

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self._fd}"
        return f"<Pin {state}: {self.length} bytes in {self.pages} pages>"


class KernelMap(_Bytes):
    """A mapping that the kernel keeps while this is open.

    `Driver.kernel_map` makes it of a carve-out, `Pin.kernel_map` of pinned pages.

    Attributes: ``address``, kernel virtual, of the first byte; ``length`` in bytes; ``levels``, 4
    or 5, of the page tables; ``mode``. `read` and `write` go through the mapping.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "kernel mapping")
        with self._closed_on_error():
            self.address, _, self.length, self.levels, mode = self._info()
        self.mode = CacheMode(mode)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over a descriptor, such as one that came over a socket.

        `IODeviceError` (kIOReturnBadArgument) for any other file; it is closed then, too.
        """
        return cls(fd)

    @property
    def root(self) -> int:
        """The physical address of this process's top page table, the kernel's half of it.

        Every process's has the mapping, each under another root.
        """
        return self._info()[1]

    def _info(self) -> tuple[int, ...]:
        return self._get(KMAP_INFO, KMAP_INFO_STRUCT)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self._fd}"
        return f"<KernelMap {state}: {self.length} bytes at {self.address:#x}, {self.mode.name}>"
