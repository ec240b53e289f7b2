# SPDX-License-Identifier: Apache-2.0
"""Page frames of memory: where they are, and how to have the kernel move them.

Needs root: others read zeros in /proc/self/pagemap.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HUGE: Final = 2 << 20
MAP_HUGETLB: Final = 0x40000
# Linux, include/uapi/asm-generic/mman-common.h; mmap has the older ones.
MADV_PAGEOUT: Final = 21
MADV_POPULATE_WRITE: Final = 23
MADV_COLLAPSE: Final = 25
# Linux, Documentation/admin-guide/mm/pagemap.rst
_PRESENT: Final = 1 << 63
_FRAME: Final = (1 << 55) - 1

_libc: Final = ctypes.CDLL(None, use_errno=True)
_madvise: Final = _libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def frames(address: int, length: int) -> list[int | None]:
    """Return the physical address of each page of a range; None for a page without a frame."""
    first, end = address // mmap.PAGESIZE, (address + length + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        data = os.pread(pagemap.fileno(), 8 * (end - first), 8 * first)
    return [
        (entry & _FRAME) * mmap.PAGESIZE if entry & _PRESENT else None
        for (entry,) in struct.iter_unpack("<Q", data)
    ]


def compact_memory() -> None:
    """Have the kernel compact all memory: it moves movable pages towards one end."""
    Path("/proc/sys/vm/compact_memory").write_text("1\n")


class PageRegion:
    """``length`` bytes of private anonymous memory from a multiple of 2 MiB on, in small pages.

    A context manager. Every page is populated. With ``holes``, three quarters of each 2 MiB are
    given back again, so that compaction has pages to move and room for them.
    """

    def __init__(self, length: int, *, holes: bool = False) -> None:
        self._map = mmap.mmap(-1, length + HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = (whole + HUGE - 1) // HUGE * HUGE
        self.length = length
        self._offset = self.address - whole
        self.advise(mmap.MADV_NOHUGEPAGE)
        self.advise(MADV_POPULATE_WRITE)
        for start in range(0, length if holes else 0, HUGE):
            self.advise(mmap.MADV_DONTNEED, start, HUGE // 4 * 3)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes as this process sees them."""
        return self._map[self._offset + offset : self._offset + offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""
        self._map[self._offset + offset : self._offset + offset + len(data)] = data

    def frames(self, offset: int = 0, length: int | None = None) -> list[int | None]:
        """Return the frames of a part; see the module's `frames`."""
        size = self.length - offset if length is None else length
        return frames(self.address + offset, size)

    def advise(self, advice: int, offset: int = 0, length: int | None = None) -> int:
        """Call madvise(2) for a part; return 0 or the error's number."""
        size = self.length - offset if length is None else length
        failed = _madvise(self.address + offset, size, advice)
        return ctypes.get_errno() if failed else 0

    def collapse(self) -> int:
        """Have the kernel move the pages into large ones; return 0 or the error's number."""
        self.advise(mmap.MADV_HUGEPAGE)
        return self.advise(MADV_COLLAPSE)

    def page_out(self) -> int:
        """Have the kernel page the pages out, where there is swap; return 0 or an error."""
        return self.advise(MADV_PAGEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._map.close()
