# SPDX-License-Identifier: Apache-2.0
"""Closes what a peer sent, and never waits for the peer.

The last close of a socket may wait for as long as the peer has set (SO_LINGER), and that of a file
for whoever serves it (FUSE). A descriptor that may not close at once is closed by another thread.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

# Mostly it takes no time, and then it is done when `close_all` returns.
PATIENCE_S = 0.25
MAX_THREADS = 16

_waiting: deque[int] = deque()
_threads: set[threading.Thread] = set()
_lock = threading.Lock()  # over the two


def close_all(descriptors: list[int]) -> None:
    """Close descriptors and empty the list, so that they are not used again."""
    slow = [each for each in descriptors if not _closed_at_once(each)]
    descriptors.clear()
    if slow:
        deadline = time.monotonic() + PATIENCE_S
        for thread in _close_elsewhere(slow):
            thread.join(max(0.0, deadline - time.monotonic()))


def _closed_at_once(descriptor: int) -> bool:
    """Close memory, an eventfd or a pipe; return False for another kind, which is left open."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        try:
            kind = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            return True  # closed already
        if not kind.startswith(("anon_inode:[eventfd]", "pipe:[")):
            return False
    _close(descriptor)
    return True


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


def _close_elsewhere(descriptors: list[int]) -> list[threading.Thread]:
    """Return the threads that close them: at most MAX_THREADS in the process, and then they wait.

    A peer that has all of them wait uses up the descriptors of this process, and no more. Where no
    thread can be had, they wait for the next that can.
    """
    started = []
    with _lock:
        _waiting.extend(descriptors)
        for _ in range(min(len(descriptors), MAX_THREADS - len(_threads))):
            thread = threading.Thread(target=_work, daemon=True)
            _threads.add(thread)
            started.append(thread)
    return [thread for thread in started if _runs(thread)]


def _runs(thread: threading.Thread) -> bool:
    """Start a thread; return whether there is room for one."""
    try:
        thread.start()
    except RuntimeError:
        with _lock:
            _threads.discard(thread)
        return False
    return True


def _work() -> None:
    while True:
        with _lock:
            if not _waiting:
                _threads.discard(threading.current_thread())
                return
            descriptor = _waiting.popleft()
        _close(descriptor)
