# SPDX-License-Identifier: Apache-2.0
"""Locks on the pages of a carve-out, held by an open lock file: one byte for each page.

fcntl(2), "Open file description locks": they belong to the open file, so every process with a copy
of its descriptor has the locks, and they go with the last copy. A process that dies leaves none
behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn

_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
_FLOCK: Final = struct.Struct("@hhqqi0q")  # type, whence, start, length, pid: pid must be 0


class PageLocks:
    """Exclusive locks on the pages 0 to ``count`` - 1, held by this open file.

    Raises `IODeviceError` (kIOReturnCannotLock) when the lock file cannot be used.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        self._finalizer = weakref.finalize(self, os.close, self._fd)

    @classmethod
    def adopt(cls, fd: int, path: Path, count: int) -> PageLocks:
        """Take over the descriptor of an open file of another process, and its locks."""
        self = cls.__new__(cls)
        self._path, self._count, self._fd = path, count, fd
        self._finalizer = weakref.finalize(self, os.close, fd)
        return self

    @property
    def fd(self) -> int:
        """The descriptor: a process with a copy of it has the locks as well."""
        return self._fd

    def acquire(self, first: int, count: int) -> bool:
        """Lock ``count`` pages; False, and none of them, when another open file has one."""
        try:
            self._fcntl(_F_OFD_SETLK, fcntl.F_WRLCK, first, count)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise self._failed(error) from error
        return True

    def release(self, first: int, count: int) -> None:
        """Unlock ``count`` pages."""
        try:
            self._fcntl(_F_OFD_SETLK, fcntl.F_UNLCK, first, count)
        except OSError as error:
            raise self._failed(error) from error

    def available(self, first: int = 0, count: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield runs (first, count) of pages that nobody else has locked; ours are among them.

        Of all pages, or of ``count`` from ``first`` on.
        """
        at = first
        last = self._count if count is None else first + count
        while at < last:
            # The kernel names the first conflicting lock, not the lowest: look for the lowest.
            end = last
            blocked = self._conflict(at, end - at)
            past = end
            while blocked is not None:
                end, length = blocked
                past = end + length if length else last
                blocked = self._conflict(at, end - at) if end > at else None
            if end > at:
                yield at, end - at
            at = past

    def close(self) -> None:
        """Close the file. The locks go with the last descriptor of this open file."""
        self._fd = -1
        self._finalizer()

    def held_by_another(self, first: int, count: int) -> bool:
        """Whether other open files have locked all of these pages."""
        return not any(
            start < first + count and first < start + size for start, size in self.available()
        )

    def _conflict(self, first: int, count: int) -> tuple[int, int] | None:
        try:
            kind, start, length = self._fcntl(_F_OFD_GETLK, fcntl.F_WRLCK, first, count)
        except OSError as error:
            raise self._failed(error) from error
        if kind == fcntl.F_UNLCK:
            return None
        # A lock can start before what was asked about.
        return max(start, first), length - max(0, first - start) if length else 0

    def _fcntl(self, command: int, kind: int, first: int, count: int) -> tuple[int, int, int]:
        request = _FLOCK.pack(kind, os.SEEK_SET, first, count, 0)
        kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, command, request))
        return kind, start, length

    def _failed(self, error: OSError) -> IODeviceError:
        return IODeviceError(
            f"lock file {self._path}: {error.strerror}", code=IOReturn.kIOReturnCannotLock
        )
