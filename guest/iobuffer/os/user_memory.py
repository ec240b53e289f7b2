# SPDX-License-Identifier: Apache-2.0
"""Memory of this process at any address: copies that cannot crash, and second mappings.

Anything can be at an address, and it can change: the kernel does the copies, and answers EFAULT
where a load or a store would end in a signal.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError, IOUnsupportedError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_down, align_up

_MAYMOVE_FIXED: Final = 0x1 | 0x2  # MREMAP_MAYMOVE | MREMAP_FIXED
_MAPS: Final = Path("/proc/self/maps")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_mremap: Final = _libc.mremap
_mremap.restype = ctypes.c_void_p
_mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]
_mprotect: Final = _libc.mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@contextmanager
def _scratch() -> Iterator[int]:
    """A file in memory, through which the kernel copies."""
    fd = os.memfd_create("copy", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _bytes_at(address: int, length: int) -> Any:
    """Return an object whose buffer is there; only the kernel looks at it."""
    return (ctypes.c_ubyte * length).from_address(address)


def read(address: int, length: int) -> bytes:
    """Return a copy of memory; kIOReturnVMError when a part of it cannot be read."""
    with _scratch() as fd:
        done = 0
        while done < length:
            try:
                done += os.pwrite(fd, _bytes_at(address + done, length - done), done)
            except OSError as error:
                raise _failed("read", address + done, length - done, error) from error
        return os.pread(fd, length, 0)


def write(address: int, data: bytes) -> None:
    """Store bytes; kIOReturnVMError when one cannot be stored, and those before it are stored."""
    with _scratch() as fd:
        os.pwrite(fd, data, 0)
        done, length = 0, len(data)
        while done < length:
            try:
                done += os.preadv(fd, [_bytes_at(address + done, length - done)], done)
            except OSError as error:
                raise _failed("written", address + done, length - done, error) from error


def map_again(address: int, length: int, at: int, *, read_only: bool) -> None:
    """Map the pages [``address``, + ``length``) a second time, at ``at``, which is reserved.

    Only shared memory can be: `IOUnsupportedError` for a private page, and for what has no pages of
    its own, such as a device's memory. All three numbers are whole pages.
    """
    end = address + length
    for start, stop, shared in _areas():
        first, last = max(start, address), min(stop, end)
        if first >= last:
            continue
        where = f"{last - first} bytes at {first:#x}"
        if first != address:
            break
        if not shared:
            raise IOUnsupportedError(
                f"{where} are private memory, which has one mapping; share it (MAP_SHARED)",
                address=first,
                length=last - first,
            )
        if _mremap(first, 0, last - first, _MAYMOVE_FIXED, at) != at:
            error = ctypes.get_errno()
            raise IOUnsupportedError(
                f"{where} cannot be mapped a second time: {os.strerror(error)}",
                address=first,
                length=last - first,
            )
        if read_only:
            _mprotect(at, last - first, mmap.PROT_READ)
        at += last - first
        address = last
    if address < end:
        raise IOReturnError(
            f"nothing is mapped at {address:#x}",
            code=IOReturn.kIOReturnVMError,
            address=address,
            length=end - address,
        )


def _areas() -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, whether it is shared) of what is mapped, by ascending address."""
    for line in _MAPS.read_text().splitlines():
        span, flags = line.split(maxsplit=2)[:2]
        start, end = (int(each, 16) for each in span.split("-"))
        yield start, end, flags[3] == "s"


def _failed(what: str, address: int, length: int, error: OSError) -> IOReturnError:
    why = error.strerror if error.errno != errno.EFAULT else "not mapped, or not that way"
    return IOReturnError(
        f"{length} bytes at {address:#x} cannot be {what}: {why}",
        code=IOReturn.kIOReturnVMError,
        address=address,
        length=length,
    )


def whole_pages(address: int, length: int) -> tuple[int, int]:
    """Return the pages that hold a range, as (address, length)."""
    start = align_down(address, PAGE)
    return start, align_up(address + length, PAGE) - start
