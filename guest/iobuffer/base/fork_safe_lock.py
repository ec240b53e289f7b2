# SPDX-License-Identifier: Apache-2.0
"""Locks that a forked child finds free: the threads that held them do not exist there."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

_locks: Final[weakref.WeakSet[threading.RLock]] = weakref.WeakSet()


def make_lock() -> threading.RLock:
    """Return a lock that a thread may take again while it has it (threading.RLock)."""
    made = threading.RLock()
    _locks.add(made)
    return made


def _after_fork_in_child() -> None:
    """Free what other threads had: what it guards is the parent's, and is refused by its pid."""
    for each in list(_locks):
        if not each._is_owned():  # type: ignore[attr-defined]  # by the thread that forked
            each._at_fork_reinit()  # type: ignore[attr-defined]  # as threading's own are


os.register_at_fork(after_in_child=_after_fork_in_child)
