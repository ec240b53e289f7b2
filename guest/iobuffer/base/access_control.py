# SPDX-License-Identifier: Apache-2.0
"""Who tells the bus what a device may reach: `prepare` grants, `complete` withdraws.

Nothing is told until `use` gives an access control, such as the platform's protection unit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from dma_rehearsal.guest.iobuffer.base import deferred, holders
from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError, undo
from dma_rehearsal.guest.iobuffer.base.options import IODirection


class AccessControl(Protocol):
    """Grants of bus addresses to devices."""

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        """Let devices reach ``length`` bytes at bus ``address``; return what `withdraw` takes.

        In: a device may write. Out: a device may read. `IOReturnError` when there is no room.
        """

    def withdraw(self, grant: object) -> None:
        """Take one grant back; it stands when this raises, an `IOReturnError`.

        `IONotPermittedError`: this comes in the middle of another call, and can be done later.
        """

    def reclaim(self) -> None:
        """Take back the grants of processes that have ended."""


_control: AccessControl | None = None


def use(control: AccessControl | None) -> AccessControl | None:
    """Tell ``control`` from now on, or nobody; return the one before."""
    global _control
    before, _control = _control, control
    return before


def reclaim() -> None:
    """Have grants of the dead taken back: called before memory is used that they may have had."""
    if _control is not None:
        _control.reclaim()


class Grants:
    """What one prepare() granted; empty where there is no access control.

    It belongs to the process that made it: in a forked child, `withdraw` does nothing.
    """

    __slots__ = ("_control", "_granted", "_pid")

    def __init__(self, segments: Sequence[tuple[int, int]], direction: IODirection) -> None:
        """Grant every segment, or none: an error takes back what was granted before it."""
        deferred.catch_up()  # what a finalizer could not withdraw
        self._control = _control
        self._pid = os.getpid()
        self._granted: list[object] = []
        if self._control is None:
            return
        try:
            for address, length in segments:
                self._granted.append(self._control.grant(address, length, direction))
        except BaseException as error:
            undo(error, self.withdraw)
            if self._granted:
                deferred.finalize(self.withdraw, f"grants of {len(self._granted)} segments")
            if isinstance(error, IOReturnError) and error.code is IOReturn.kIOReturnNoResources:
                error.add(holders.of_the_bus())
            raise

    def withdraw(self) -> None:
        """Take all back. Again is nothing; what an error has left is taken back then."""
        if os.getpid() != self._pid:
            return
        while self._granted and self._control is not None:
            self._control.withdraw(self._granted[-1])
            self._granted.pop()
