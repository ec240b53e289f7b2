# SPDX-License-Identifier: Apache-2.0
"""The allocator's grants in the platform's protection unit, for `Platform.access_control`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dma_rehearsal.guest.drivers.platform.command import CommandInProgress, PlatformDeviceError
from dma_rehearsal.guest.drivers.platform.errors import as_return
from dma_rehearsal.guest.drivers.platform.protection_unit import (
    GrantsExhausted,
    NoSuchGrant,
    ProtectionUnit,
    process_owner,
)
from dma_rehearsal.guest.iobuffer import IODirection, IOReturn, IOReturnError
from dma_rehearsal.guest.iobuffer.base import interfaces


class PlatformEvidence:
    """`DmaEvidence` of the protection unit: the bytes that it saw touched while it was on."""

    def __init__(self, unit: ProtectionUnit) -> None:
        self._unit = unit

    def untouched(
        self, address: int, length: int, direction: IODirection, since: int
    ) -> interfaces.Untouched | None:
        """Ask the unit; None when it does not know, or this comes in the midst of a command.

        `IODeviceError` when it cannot be asked.
        """
        try:
            found = self._unit.touched(address, length, int(direction), since)
        except CommandInProgress:
            return None
        except PlatformDeviceError as error:
            raise as_return(error, address=address, length=length, direction=direction) from error
        return None if found is None else interfaces.Untouched(length - found.count, found.first)


@dataclass(frozen=True, slots=True)
class _Granted:
    """A grant by its id, and the process that made it."""

    id: int
    pid: int


class PlatformAccess:
    """An `AccessControl` whose grants belong to the process that makes them.

    A process that was forked has none of its parent's: it withdraws none of them, and counts anew.
    """

    def __init__(self, unit: ProtectionUnit) -> None:
        self._unit = unit
        self._pid = self._owner = 0  # process, and its tag as an owner
        self._mine: set[int] = set()  # ids of this process's grants in force

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        """Grant a range; `IOReturnError` (kIOReturnNoResources) when the unit is full.

        Other errors are `platform_errors.as_return`'s.
        """
        self._begin_process()
        try:
            made = self._unit.grant(address, length, int(direction), self._owner)
        except GrantsExhausted as error:
            raise IOReturnError(
                str(error),
                code=IOReturn.kIOReturnNoResources,
                address=address,
                length=length,
                direction=direction,
            ) from error
        except PlatformDeviceError as error:
            raise as_return(error, address=address, length=length, direction=direction) from error
        self._mine.add(made)
        return _Granted(made, self._pid)

    def withdraw(self, grant: object) -> None:
        """Take a grant back; one that a reset of the platform dropped is gone anyway.

        It stands when this raises: `platform_errors.as_return`'s errors.
        """
        if not isinstance(grant, _Granted):
            raise TypeError(f"{grant!r} is not a grant of this access control")
        self._begin_process()
        if grant.pid != self._pid:
            return  # the process that made it still uses it
        try:
            self._unit.withdraw(grant.id)
        except NoSuchGrant:
            pass
        except PlatformDeviceError as error:
            raise as_return(error) from error
        self._mine.discard(grant.id)

    def reclaim(self) -> None:
        """Take back the grants of processes that have ended. Errors as `withdraw`'s."""
        try:
            if self.others:
                self._unit.withdraw_dead()
        except PlatformDeviceError as error:
            raise as_return(error) from error

    @property
    def others(self) -> int:
        """The number of grants in force that others made, for example a test by hand.

        It is negative when a reset of the platform dropped some of its own.
        """
        self._begin_process()
        return self._unit.grant_count - len(self._mine)

    def _begin_process(self) -> None:
        """Start with no grants in a forked process: grants belong to processes."""
        if self._pid != os.getpid():
            self._pid, self._owner = os.getpid(), process_owner()
            self._mine = set()
