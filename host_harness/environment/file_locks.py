# SPDX-License-Identifier: Apache-2.0
"""Locks on files by flock(2), shared and exclusive; the kernel releases those of a dead process.

Not filelock: its locks are exclusive only, and doctor and clean-cache run before any library is
installed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dma_rehearsal.host_harness.process.errors import EnvironmentFailure

Note = Callable[[str], None]

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
# A build's commands have time limits of their own; a longer holder is not building.
_LOCK_WAIT_S = 3600.0


@contextmanager
def exclusive(folder: Path, purpose: str, note: Note) -> Iterator[bool]:
    """Hold the lock of ``folder``, which is ``.lock`` in it; yield False where there are no locks.

    ``note`` says once who holds it, before ``purpose``. EnvironmentFailure after `_LOCK_WAIT_S`.
    """
    path = folder / ".lock"
    deadline = time.monotonic() + _LOCK_WAIT_S
    told = False
    while True:
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = f"another run (process {lock.read(20).strip() or '?'})"
                if time.monotonic() > deadline:
                    raise EnvironmentFailure(
                        f"{holder} has held {path} for more than {_LOCK_WAIT_S:.0f} s",
                        "find out what it does and end it, then run again",
                    ) from None
                if not told:
                    note(f"{holder} is working there: waiting before {purpose}")
                    told = True
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                note(f"{folder} is on a file system without locks; nothing in it is removed")
                yield False
                return
            else:
                if is_still(lock.fileno(), path):  # clean-cache removes lock files, too
                    _sign(lock)
                    yield True
                    return
                continue
        time.sleep(0.1)


@contextmanager
def exclusive_at_once(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder`` as `exclusive` does, or yield False at once.

    False is for a lock that another process holds, and for a file system without locks. OSError
    where the lock's file cannot be written.
    """
    path = folder / ".lock"
    with path.open("a+") as file:
        alone = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = is_still(file.fileno(), path)
        except OSError as error:
            if error.errno not in UNSUPPORTED | {errno.EWOULDBLOCK}:
                raise
        if alone:
            _sign(file)
        yield alone


def _sign(file: IO[str]) -> None:
    """Write into a lock's file who holds it."""
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def lock(descriptor: int, operation: int, wait_s: float) -> bool:
    """Lock within some seconds; True as well where the file system has no locks."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return True
            raise
        time.sleep(0.02)


def is_still(descriptor: int, path: Path) -> bool:
    """Return whether a path still names the file that was opened and then locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
