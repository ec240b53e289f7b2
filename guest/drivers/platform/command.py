# SPDX-License-Identifier: Apache-2.0
"""The basis of every platform command: its errors, and the lock that admits one at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dma_rehearsal.guest.drivers.pci_bars import PciError

LOCKS: Final = Path("/run/dma-rehearsal")
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC

_within = threading.local()
_lock_files: set[int] = set()  # descriptors of the commands that are under way in this process


class PlatformDeviceError(PciError):
    """The platform device has another kind or version, or gave an invalid answer."""


class CommandInProgress(PlatformDeviceError):
    """This thread is in the middle of another command: try again when that one has ended.

    Only a finalizer or a signal handler meets this.
    """


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

        `CommandInProgress` when this thread holds it: a finalizer or a signal handler that came in
        the middle of a command must leave its own command for later. `PlatformDeviceError` when
        the lock file cannot be opened.
        """
        if getattr(_within, "command", False):
            raise CommandInProgress(f"{self._path.stem}: a command in the middle of another one")
        pid, fd = os.getpid(), self._open()
        _lock_files.add(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _within.command = True
            try:
                yield
            finally:
                _within.command = False
                # A forked child may have the descriptor as well, so closing is not enough.
                if os.getpid() == pid:
                    fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            if os.getpid() == pid:
                _lock_files.discard(fd)
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


def _after_fork_in_child() -> None:
    """The parent owns the commands under way: if it dies, this process must not keep the lock."""
    _within.command = False
    for fd in _lock_files:
        os.close(fd)
    _lock_files.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
