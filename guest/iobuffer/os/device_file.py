# SPDX-License-Identifier: Apache-2.0
"""Files of the kernel module: device files, and those that its ioctls return."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import weakref
from pathlib import Path
from typing import ClassVar, Final

from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.base.errors import IODeviceError, IOReturn

_ours: Final[weakref.WeakSet[DeviceFile]] = weakref.WeakSet()


def open_device(path: Path) -> int:
    """Open a device file; `IODeviceError` (kIOReturnNotAttached) when it cannot be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise IODeviceError(
            f"{path}: {error.strerror}; is the module dma_rehearsal loaded?",
            code=IOReturn.kIOReturnNotAttached,
        ) from error


def code_of(error: OSError) -> IOReturn:
    """Return IOKit's code for a refused ioctl."""
    if error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTTY):
        return IOReturn.kIOReturnBadArgument
    if error.errno == errno.ENODEV:  # the function was unbound, or is gone
        return IOReturn.kIOReturnNotAttached
    return IOReturn.kIOReturnError


class DeviceFile(Closing):
    """A file of the module: open until `close`, or to the end of the ``with``.

    ``closed_by_fork``: whether a forked child closes its copy, the lowest number first; None: not.
    """

    closed_by_fork: ClassVar[int | None] = None

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self._finalizer = weakref.finalize(self, os.close, fd)
        if self.closed_by_fork is not None:
            _ours.add(self)

    def _get(self, command: int, record: struct.Struct) -> tuple[int, ...]:
        answer = bytearray(record.size)
        try:
            fcntl.ioctl(self._fd, command, answer)
        except OSError as error:
            raise IODeviceError(
                f"{self.name}: ioctl {command:#x}: {error}", code=code_of(error)
            ) from error
        return record.unpack(answer)

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._fd = -1
        self._finalizer()


def _after_fork_in_child() -> None:
    """An object of the module lasts until its file's last close, so a child must not keep one.

    Its parent may be dead by now, with a DMA in flight to its pinned pages: the last close of the
    function stops that, and comes before pages go back.
    """
    for each in sorted(_ours, key=lambda file: file.closed_by_fork or 0):
        each.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
