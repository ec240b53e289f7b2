"""The allocator's grants in the platform's protection unit, for `iobuffer.protection.use`."""

from __future__ import annotations

import os
from collections import deque

from iobuffer import IODirection, IOReturn, IOReturnError, coverage
from platform_command import PlatformDeviceError
from protection_unit import GrantsExhausted, NoSuchGrant, ProtectionUnit, process_owner


class PlatformEvidence:
    """An `iobuffer.coverage.Evidence`: what the protection unit saw, while it is on."""

    def __init__(self, unit: ProtectionUnit) -> None:
        self._unit = unit

    def untouched(
        self, address: int, length: int, direction: IODirection, since: int
    ) -> coverage.Untouched | None:
        """Ask the unit; None when it does not know, or this comes in the midst of a command."""
        try:
            found = self._unit.touched(address, length, int(direction), since)
        except PlatformDeviceError:
            return None
        return None if found is None else coverage.Untouched(length - found.count, found.first)


class PlatformAccess:
    """An `iobuffer.protection.AccessControl` whose grants belong to the process that makes them."""

    def __init__(self, unit: ProtectionUnit) -> None:
        self._unit = unit
        self._owner = 0, 0  # process id, tag
        self._late: deque[int] = deque()
        self._mine = 0  # grants of this process that are in force

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        """Grant a range; `IOReturnError` (kIOReturnNoResources) when the unit is full."""
        self._withdraw_late()
        if self._owner[0] != os.getpid():
            self._owner = os.getpid(), process_owner()
            self._late.clear()
            self._mine = 0
        try:
            made = self._unit.grant(address, length, int(direction), self._owner[1])
        except GrantsExhausted as error:
            raise IOReturnError(
                str(error),
                code=IOReturn.kIOReturnNoResources,
                address=address,
                length=length,
                direction=direction,
            ) from error
        self._mine += 1
        return made

    def withdraw(self, grant: object) -> None:
        """Take a grant back; one that a reset of the platform dropped is gone anyway."""
        if not isinstance(grant, int):
            raise TypeError(f"{grant!r} is no grant of this access control")
        try:
            self._unit.withdraw(grant)
        except NoSuchGrant:
            pass
        except PlatformDeviceError:
            # A finalizer in the midst of a command: the next command does it.
            self._late.append(grant)
            return
        self._mine -= 1

    def reclaim(self) -> None:
        """Take back the grants of processes that have ended."""
        self._withdraw_late()
        if self.others:
            self._unit.withdraw_dead()

    @property
    def others(self) -> int:
        """How many grants in force are not by this access control, such as made by hand.

        Less than 0 when a reset of the platform dropped some of its own.
        """
        return self._unit.grant_count - self._mine

    def _withdraw_late(self) -> None:
        for _ in range(len(self._late)):
            self.withdraw(self._late.popleft())
