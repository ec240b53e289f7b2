"""Mapped memory by address: mmap(2) and munmap(2) through ctypes.

Python's own mmap objects each keep a descriptor of their own (until 3.13's trackfd), and a process
has room for some thousand of those; buffers are more.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any, Final

_MAP_FIXED_NOREPLACE: Final = 0x100000
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

_live: dict[int, int] = {}  # address -> length of every mapping


class Mapping:
    """``length`` bytes of a file from ``offset`` on, shared and writable, at ``address``.

    Raises OSError as mmap(2) does. It is unmapped by `close` alone.
    """

    __slots__ = ("_exported", "address", "length")

    def __init__(self, fd: int, length: int, offset: int) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _mmap(None, length, protection, mmap.MAP_SHARED, fd, offset)
        if address == _FAILED:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self.address: int = address
        self.length = length
        self._exported: list[weakref.ref[Any]] = []
        _live[address] = length

    def export(self, offset: int, length: int) -> Any:
        """Return a part as a ctypes array; while that lives, the mapping cannot be closed."""
        array = (ctypes.c_ubyte * length).from_address(self.address + offset)
        self._exported.append(weakref.ref(array, self._exported.remove))
        return array

    def view(self) -> memoryview:
        """Return all of it as a memoryview, see `export`."""
        return memoryview(self.export(0, self.length)).cast("B")

    def zero(self, offset: int, length: int) -> None:
        """Fill a part with zeros."""
        ctypes.memset(self.address + offset, 0, length)

    def close(self) -> None:
        """Unmap; BufferError, and nothing done, while an export lives. Again is nothing."""
        if self._exported:
            raise BufferError(f"{len(self._exported)} views of the mapping are alive")
        if _live.pop(self.address, None) is not None:
            _munmap(self.address, self.length)


def after_fork_in_child() -> None:
    """Put inaccessible memory where the parent's mappings were (the driver gives a child none).

    So a stale view faults at its address, and the parent's objects, when they are closed here,
    unmap nothing that the child has mapped since. What a fork does inherit stays.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    inherited = dict(_live)
    _live.clear()
    for address, length in inherited.items():
        _mmap(address, length, 0, flags, -1, 0)
