# SPDX-License-Identifier: Apache-2.0
"""The kernel module as this process has it open: one `Driver`, made when first asked for."""

from __future__ import annotations

import os
import threading

from dma_rehearsal.guest.iobuffer.os.driver import Driver

_lock = threading.Lock()
_driver: Driver | None = None


def driver() -> Driver:
    """Return this process's `Driver`; `IODeviceError` when the module is not there."""
    global _driver
    with _lock:
        if _driver is None:
            _driver = Driver()
        return _driver


def use(other: Driver | None) -> None:
    """Take another one from now on (in tests); None: open it when it is next asked for."""
    global _driver
    with _lock:
        _driver = other


def _after_fork_in_child() -> None:
    global _driver, _lock
    _driver, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
