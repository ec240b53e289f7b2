# SPDX-License-Identifier: Apache-2.0
"""Mapped memory by address: mmap(2), munmap(2) and madvise(2) through ctypes.

Python's own mmap objects each keep a descriptor of their own (until 3.13's trackfd), and a process
may have some thousand of those; there can be more buffers.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import warnings
import weakref
from dataclasses import dataclass
from typing import Any, Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.os import uncached as words

PROT_NONE: Final = 0  # the module mmap does not name it
MAP_FIXED: Final = 0x10
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
_MAP_FIXED_NOREPLACE: Final = 0x100000
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_mmap: Final = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_munmap: Final = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_madvise: Final = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_live: dict[int, int] = {}  # address -> length in bytes


def _map(address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    """Call mmap(2); OSError as it does, and EEXIST where it maps elsewhere than it must.

    A kernel before 4.17 does not know MAP_FIXED_NOREPLACE, and takes the address for a hint.
    """
    found = _mmap(address, length, protection, flags, fd, offset)
    if found == _FAILED or found is None:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if flags & _MAP_FIXED_NOREPLACE and found != address:
        _munmap(found, length)
        raise OSError(errno.EEXIST, f"{address:#x} is not free: the kernel chose {found:#x}")
    return int(found)


def advise(address: int, length: int, advice: int) -> None:
    """Call madvise(2); OSError as it does."""
    if _madvise(address, length, advice):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class Reservation:
    """Addresses in which nothing can be accessed, until mappings are placed there.

    ``length`` in bytes, whole pages. ``at``: just there, and nothing is replaced. Raises OSError.
    """

    __slots__ = ("address", "length")

    def __init__(self, length: int, at: int = 0) -> None:
        flags = _PRIVATE | MAP_NORESERVE | (_MAP_FIXED_NOREPLACE if at else 0)
        self.address = _map(at, length, PROT_NONE, flags, -1, 0)
        self.length = length

    def close(self) -> None:
        """Give the addresses back, with all that is placed in them. A second call does nothing."""
        if self.length:
            _munmap(self.address, self.length)
            self.length = 0


def page_address(at: int) -> int:
    """Return where pages are to be mapped; `IOBadArgumentError` when no page begins there."""
    if at % PAGE or at < 0:
        raise IOBadArgumentError(
            f"a mapping whose pages begin at {at:#x}, which is not a page's address", address=at
        )
    return at


def reserve(length: int, at: int = 0) -> Reservation:
    """Reserve addresses; `IOBadArgumentError` (``at``), kIOReturnNoSpace without room."""
    try:
        return Reservation(length, page_address(at))
    except OSError as error:
        where = f" at {at:#x}" if at else ""
        raise IOReturnError(
            f"{length} bytes of addresses{where}: {error.strerror}",
            code=IOReturn.kIOReturnNoSpace,
            address=at or None,
            length=length,
        ) from error


@dataclass(frozen=True, slots=True)
class MapPlacement:
    """The address and the rights of a mapping to make.

    ``read_only``: stores fault. ``populate``: no page faults later. ``at``: just there, and nothing
    is replaced; ``within``: there, in a reservation.
    """

    read_only: bool = False
    populate: bool = False
    at: int = 0
    within: Reservation | None = None


ANYWHERE: Final = MapPlacement()


class Window:
    """``length`` bytes at ``address`` that are mapped by other means, and the views of them."""

    __slots__ = ("_exported", "address", "length")

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        self._exported: list[weakref.ref[Any]] = []

    @property
    def exports(self) -> int:
        """The number of live exports."""
        return len(self._exported)

    def export(self, offset: int, length: int) -> Any:
        """Return a part as a ctypes array; while that lives, the memory cannot be unmapped."""
        array = (ctypes.c_ubyte * length).from_address(self.address + offset)
        self._exported.append(weakref.ref(array, self._exported.remove))
        return array

    def check_unused(self) -> None:
        """Raise BufferError while an export lives."""
        if self._exported:
            raise BufferError(f"{len(self._exported)} views of the mapping are alive")


class Mapping(Window):
    """``length`` bytes of a file from ``offset`` on, shared, at ``address``.

    ``fd`` -1 is private anonymous memory. ``uncached``: see the module `uncached`. A forked child
    does not have it: there, its addresses fault.

    Raises OSError as mmap(2) does. It is unmapped by `close` alone.
    """

    __slots__ = ("_uncached", "_within", "read_only")

    def __init__(
        self,
        fd: int,
        length: int,
        offset: int = 0,
        placement: MapPlacement = ANYWHERE,
        *,
        uncached: bool = False,
    ) -> None:
        protection = mmap.PROT_READ | (0 if placement.read_only else mmap.PROT_WRITE)
        flags = _PRIVATE if fd < 0 else mmap.MAP_SHARED
        if placement.populate:
            flags |= MAP_POPULATE
        if placement.within is not None:
            flags |= MAP_FIXED
        elif placement.at:
            flags |= _MAP_FIXED_NOREPLACE
        super().__init__(_map(placement.at, length, protection, flags, fd, offset), length)
        self.read_only = placement.read_only
        self._within = placement.within
        self._uncached = uncached
        _live[self.address] = length
        try:
            advise(self.address, length, mmap.MADV_DONTFORK)
        except OSError:
            self.close()
            raise

    @classmethod
    def adopt(cls, address: int, length: int) -> Mapping:
        """Take over what somebody else has mapped, such that a fork does not have it."""
        self = cls.__new__(cls)
        Window.__init__(self, address, length)
        self.read_only = False
        self._within = None
        self._uncached = False
        _live[address] = length
        return self

    def view(self) -> memoryview:
        """Return all of it as a memoryview, see `export`."""
        view = memoryview(self.export(0, self.length)).cast("B")
        return view.toreadonly() if self.read_only else view

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of a part."""
        if self._uncached:
            return words.load(self.address + offset, length)
        return ctypes.string_at(self.address + offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""
        if self._uncached:
            words.store(self.address + offset, data)
        else:
            ctypes.memmove(self.address + offset, data, len(data))

    def zero(self, offset: int, length: int) -> None:
        """Fill a part with zeros."""
        if self._uncached:
            words.zero(self.address + offset, length)
        else:
            ctypes.memset(self.address + offset, 0, length)

    def advise(self, advice: int) -> None:
        """Call madvise(2) on all of it; OSError as it does."""
        advise(self.address, self.length, advice)

    def close(self) -> None:
        """Unmap; BufferError, and nothing done, while an export lives. Later calls do nothing."""
        self.check_unused()
        if _live.pop(self.address, None) is None:
            return
        if self._within is not None and self._within.length:
            flags = _PRIVATE | MAP_NORESERVE | MAP_FIXED
            _map(self.address, self.length, PROT_NONE, flags, -1, 0)
        elif self._within is None:
            _munmap(self.address, self.length)


def after_fork_in_child() -> None:
    """Put inaccessible memory where the parent's mappings were.

    So a stale view faults at its address, and the parent's objects, when they are closed here,
    unmap nothing that the child has mapped since. RuntimeWarning where something else lies there
    by now: a stale view would find that.
    """
    parents = dict(_live)
    _live.clear()
    taken = []
    for address, length in parents.items():
        try:
            _map(address, length, PROT_NONE, _PRIVATE | _MAP_FIXED_NOREPLACE, -1, 0)
        except OSError as error:
            taken.append((address, length, error))
    for address, length, cause in taken:  # when all is done: a warning may be made an error
        warnings.warn(
            f"a forked child: {length} bytes at {address:#x}, where a buffer of the parent was, "
            f"are not held free: {cause}; use no view of that buffer here",
            RuntimeWarning,
            stacklevel=2,
        )
