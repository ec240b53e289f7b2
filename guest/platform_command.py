"""What every command of the platform device needs: its errors, and one command at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pci_sysfs import PciError

LOCKS: Final = Path("/run/dma-rehearsal")
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC

_within = threading.local()


class PlatformDeviceError(PciError):
    """The platform device is of another kind or version, or answered what it must not."""


class CommandLock:
    """Lets one thread of one process at a time give a device commands.

    A command is several registers, and processes share the BAR. The kernel takes the lock from a
    process that dies.
    """

    def __init__(self, address: str) -> None:
        """``address`` of the function, such as 0000:00:03.0."""
        self._path = LOCKS / f"{address}.lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it.

        `PlatformDeviceError` when this thread holds it: a finalizer or a signal handler that came
        in the middle of a command must leave its own command for later.
        """
        if getattr(_within, "command", False):
            raise PlatformDeviceError(f"{self._path.stem}: a command in the middle of another one")
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _within.command = True
            try:
                yield
            finally:
                _within.command = False
                # A child that was forked meanwhile has the descriptor as well: closing is not all.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def _open(self) -> int:
        """Return a descriptor of this command's own: a lock belongs to the open file."""
        try:
            try:
                return os.open(self._path, _OPEN, 0o600)
            except FileNotFoundError:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self._path, _OPEN, 0o600)
        except OSError as error:
            raise PlatformDeviceError(f"cannot open the lock file {self._path}: {error}") from error
