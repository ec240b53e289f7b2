# SPDX-License-Identifier: Apache-2.0
"""Interrupts of a PCI function as eventfds, whichever driver has the function."""

from __future__ import annotations

import os
import select
from typing import Protocol

from dma_rehearsal.guest.iobuffer.base.closing import Closing
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts, PciInfo


class FunctionDriver(Protocol):
    """A driver that gives a function bus mastering and interrupts: `DriverFunction`, or VFIO's.

    `DriverFunction` describes the methods.
    """

    @property
    def closed(self) -> bool:
        """Whether it is closed, which takes the eventfds away."""

    def info(self) -> PciInfo:
        """See `DriverFunction.info`."""

    def set_bus_master(self, on: bool) -> None:
        """See `DriverFunction.set_bus_master`."""

    def set_eventfd(self, vector: int, fd: int) -> None:
        """See `DriverFunction.set_eventfd`."""

    def set_interrupts(self, kind: Interrupts) -> None:
        """See `DriverFunction.set_interrupts`."""

    def unmask(self) -> None:
        """See `DriverFunction.unmask`."""

    def close(self) -> None:
        """Close it; closing again does nothing."""


class Interrupt(Closing):
    """An eventfd that one vector signals; a context manager."""

    def __init__(self, driver: FunctionDriver, vector: int) -> None:
        self.vector = vector
        self._driver = driver
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            driver.set_eventfd(vector, self._fd)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The eventfd, for select() and similar calls."""
        return self._fd

    def wait(self, timeout: float) -> int:
        """Wait at most ``timeout`` seconds; return the interrupts since the last call, or 0."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return 0
        return os.eventfd_read(self._fd)

    def close(self) -> None:
        """Take the eventfd from the vector, and close it; closing again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                if not self._driver.closed:  # closing it took the eventfd away already
                    self._driver.set_eventfd(self.vector, -1)
            finally:
                os.close(fd)
