# SPDX-License-Identifier: Apache-2.0
"""The platform's protection unit from user space: grants, and the faults of denied DMA."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout import (
    FAULT_CAPACITY,
    FUNCTION_END,
    DmaDirection,
    DmaReason,
    GrantDirection,
    Plat,
    ProtectionCommand,
    ProtectionStatus,
    function_address,
    function_word,
    requester_id_of,
)
from dma_rehearsal.guest.drivers.pci_bars import Bar
from dma_rehearsal.guest.drivers.platform.command import CommandLock, PlatformDeviceError

_U64: Final = 1 << 64
_PROCESS_OWNER: Final = 1 << 63
_START_MASK: Final = (1 << 31) - 1
# FAULT_VALID to FAULT_FUNCTION, in the order of their offsets.
_FAULT: Final = struct.Struct("<4I3QII3Q2I")
_TOUCHED: Final = struct.Struct("<I4xQQ")  # TOUCHED_KNOWN to TOUCHED_FIRST_HI


class ProtectionError(PlatformDeviceError):
    """The protection unit refused a command; ``status`` is its reason."""

    def __init__(self, status: ProtectionStatus, what: str) -> None:
        super().__init__(f"{what}: {status.name}")
        self.status = status


class GrantsExhausted(ProtectionError):
    """The unit has no room for another grant: withdraw some."""


class NoSuchGrant(ProtectionError):
    """No grant has this id: it was withdrawn, or a reset dropped all grants."""


_ERRORS: Final[dict[ProtectionStatus, type[ProtectionError]]] = {
    ProtectionStatus.FULL: GrantsExhausted,
    ProtectionStatus.NO_SUCH_GRANT: NoSuchGrant,
}


@dataclass(frozen=True, slots=True)
class Grant:
    """A range that devices may access: bus address, bytes, and its owner's tag.

    ``function`` is the requester ID of the only function that may use it; None: every function may.
    """

    id: int
    address: int
    length: int
    direction: GrantDirection
    owner: int
    function: int | None = None

    def __str__(self) -> str:
        alone = "" if self.function is None else f", for {function_address(self.function)} alone"
        return (
            f"{self.direction.name}, {self.length} bytes at {self.address:#x}, "
            f"owner {self.owner:#x}{alone}"
        )


@dataclass(frozen=True, slots=True)
class ProtectionFault:
    """A denied DMA request, which moved nothing. Bus addresses; length in bytes.

    ``byte`` is the first byte at fault; ``nearest`` is the grant that was nearest to it then.
    ``function`` is the requester ID of the function; None: the unit does not know it.
    """

    sequence: int
    address: int
    length: int
    direction: DmaDirection
    reason: DmaReason
    byte: int
    nearest: Grant | None
    function: int | None = None

    def __str__(self) -> str:
        what = "write" if self.direction is DmaDirection.WRITE_MEMORY else "read"
        nearest = "none is in force" if self.nearest is None else str(self.nearest)
        by = "" if self.function is None else f" by {function_address(self.function)}"
        return (
            f"a {what} of {self.length} bytes at {self.address:#x}{by} was denied: "
            f"{self.reason.name} from {self.byte:#x} on; nearest grant: {nearest}"
        )


def process_owner(pid: int | None = None) -> int:
    """Return the owner's tag of a process (default: this one), which no later process will have.

    Process id and start time, as Linux's proc(5) has them; ProcessLookupError for one that is gone.
    """
    number = os.getpid() if pid is None else pid
    try:
        # The command's name comes in parentheses and may hold anything.
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {number}") from None
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {number} has ended")
    return _PROCESS_OWNER | (int(fields[19]) & _START_MASK) << 32 | number


@functools.lru_cache(maxsize=1)
def _this_process(pid: int) -> int:
    """Return this process's tag, the same for as long as it runs; ``pid`` tells a fork apart."""
    return process_owner(pid)


os.register_at_fork(after_in_child=_this_process.cache_clear)  # process ids are reused


def _is_dead(owner: int) -> bool:
    if not owner & _PROCESS_OWNER:
        return False
    try:
        return process_owner(owner & 0xFFFF_FFFF) != owner
    except ProcessLookupError:
        return True


def _grant(address: int, length: int, direction: int) -> str:
    return f"grant of {length} bytes at {address:#x}, direction {int(direction)}"


@dataclass(frozen=True, slots=True)
class Touched:
    """The ``count`` bytes of a range that DMA touched; ``first`` is the first untouched one.

    ``first`` is an offset in the range, its length when all was touched.
    """

    count: int
    first: int


class ProtectionUnit:
    """Grants are in force until withdrawn, whichever process made them.

    While the unit is off every DMA passes. While it is on, a DMA passes when grants for its
    direction cover each of its bytes; otherwise it moves nothing, and leaves a fault.
    """

    def __init__(self, control: Bar, lock: CommandLock, address: str) -> None:
        """``control`` is the platform's BAR0, ``address`` its place for messages."""
        self._control, self._lock, self._address = control, lock, address

    @property
    def enabled(self) -> bool:
        """Whether a DMA needs a grant."""
        return bool(self._control[Plat.PROTECTION_ENABLED])

    @enabled.setter
    def enabled(self, on: bool) -> None:
        command = ProtectionCommand.ENABLE if on else ProtectionCommand.DISABLE
        with self._lock.held():
            self._do(command, command.name)

    # Grants.

    def grant(
        self,
        address: int,
        length: int,
        direction: int,
        owner: int | None = None,
        function: int | None = None,
    ) -> int:
        """Let devices access [address, address + length) on the bus; return the grant's id.

        ``direction`` as in IOKit: 1 device writes (In), 2 device reads (Out), 3 both.
        ``owner`` is any tag of 63 bits, or one of `process_owner` (default: this process's).
        ``function`` is a requester ID (`PciFunction.requester_id`): no other function may use the
        grant; default: every function may.
        `GrantsExhausted`, or `ProtectionError` for a range or a direction that there is not.
        """
        return self.grant_each([(address, length)], direction, owner, function)[0]

    def grant_each(
        self,
        ranges: Sequence[tuple[int, int]],
        direction: int,
        owner: int | None = None,
        function: int | None = None,
    ) -> list[int]:
        """Grant each (address, length) as `grant` does, in one uninterrupted command.

        When one is refused, the ones before it stay granted; `withdraw_owner` takes them
        back as well.
        """
        tag = _this_process(os.getpid()) if owner is None else owner
        for address, length in ranges:
            if not all(0 <= value < _U64 for value in (address, length, tag, direction)):
                what = _grant(address, length, direction)
                raise ProtectionError(ProtectionStatus.BAD_ARGUMENT, what)
        if function is not None and not 0 <= function < FUNCTION_END:
            what = f"grant to function {function:#x}"
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT, what)
        command = ProtectionCommand.GRANT
        control, made = self._control, []
        with self._lock.held():
            control.set64(Plat.GRANT_OWNER_LO, tag)
            control[Plat.GRANT_DIRECTION] = min(direction, 0xFFFF_FFFF)
            if function is not None:
                control[Plat.GRANT_FUNCTION] = function_word(function)
                command = ProtectionCommand.GRANT_TO_FUNCTION
            for address, length in ranges:
                control.set64(Plat.GRANT_ADDRESS_LO, address)
                control.set64(Plat.GRANT_LENGTH_LO, length)
                control[Plat.PROTECTION_CTL] = command
                answer = control.get64(Plat.GRANT_STATUS)  # GRANT_MADE comes next
                if (status := answer & 0xFFFF_FFFF) != ProtectionStatus.OK:
                    self._check(status, _grant(address, length, direction))
                made.append(answer >> 32)
        return made

    def withdraw(self, identity: int) -> None:
        """Take a grant back: no more bytes move by it. `NoSuchGrant` for an unknown id."""
        what = f"withdrawal of grant {identity}"
        if not 0 <= identity < 1 << 32:
            raise NoSuchGrant(ProtectionStatus.NO_SUCH_GRANT, what)
        with self._lock.held():
            self._control[Plat.GRANT_ID] = identity
            self._do(ProtectionCommand.WITHDRAW, what)

    def withdraw_owner(self, owner: int) -> int:
        """Take back all grants of an owner; return their number."""
        what = f"withdrawal of owner {owner:#x}"
        if not 0 <= owner < _U64:
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT, what)
        with self._lock.held():
            self._control.set64(Plat.GRANT_OWNER_LO, owner)
            self._do(ProtectionCommand.WITHDRAW_OWNER, what)
            return self._control[Plat.GRANT_WITHDRAWN]

    def withdraw_dead(self) -> int:
        """Take back the grants of processes that have ended; return their number."""
        processes = self.owners(_PROCESS_OWNER)  # a kernel driver's mappings are below
        return sum(self.withdraw_owner(owner) for owner in processes if _is_dead(owner))

    def owners(self, first: int = 0) -> list[int]:
        """Return the tags of all owners of grants from ``first`` on, ascending."""
        found: list[int] = []
        with self._lock.held():
            for _ in range(self.capacity):
                least = found[-1] + 1 if found else first
                if least == _U64:
                    break
                self._control.set64(Plat.GRANT_OWNER_LO, least)
                try:
                    self._do(ProtectionCommand.NEXT_OWNER, "next owner")
                except ProtectionError as error:
                    if error.status is ProtectionStatus.NO_SUCH_OWNER:
                        break
                    raise
                found.append(self._control.get64(Plat.GRANT_OWNER_LO))
        return found

    @contextmanager
    def granted(self, address: int, length: int, direction: int) -> Iterator[int]:
        """Grant within the ``with``; its value is the grant's id."""
        identity = self.grant(address, length, direction)
        try:
            yield identity
        finally:
            self.withdraw(identity)

    @property
    def grant_count(self) -> int:
        """Grants in force, of all processes."""
        return self._control[Plat.GRANT_COUNT]

    @property
    def capacity(self) -> int:
        """Grants that can be in force at once."""
        return self._control[Plat.GRANT_CAPACITY]

    def touched(self, address: int, length: int, direction: int, since: int = 0) -> Touched | None:
        """Return which bytes of [address, address + length) requests have touched after ``since``.

        ``since``: a `RequestLog.count`. ``direction`` as in `grant`: by device writes, reads,
        or either. None: the unit does not know, for it was off, or forgot requests of that time.
        """
        if not (0 <= address < _U64 and 0 <= length < _U64):
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT, _grant(address, length, direction))
        control = self._control
        with self._lock.held():
            control.set64(Plat.TOUCHED_ADDRESS_LO, address)
            control.set64(Plat.TOUCHED_LENGTH_LO, length)
            control[Plat.TOUCHED_SINCE] = since & 0xFFFF_FFFF
            control[Plat.TOUCHED_DIRECTION] = int(direction) & 3
            block = control.block(Plat.TOUCHED_KNOWN, _TOUCHED.size)
        known, count, first = _TOUCHED.unpack(block)
        return Touched(count, first) if known == 1 else None

    # Faults.

    @property
    def fault_count(self) -> int:
        """Requests denied since the reset: the sequence number of the last one."""
        return self._control[Plat.FAULT_COUNT]

    @property
    def faults_lost(self) -> int:
        """Faults that newer ones have overwritten."""
        return self._control[Plat.FAULT_LOST]

    def faults(self, since: int = 0) -> list[ProtectionFault]:
        """Return the kept faults with a sequence number above ``since``, oldest first.

        Reading removes none. A fault that is overwritten while it is read is left out.
        """
        with self._lock.held():
            last = self.fault_count
            if last <= since:
                return []
            first = max(since, self.faults_lost, last - FAULT_CAPACITY) + 1
            found = [self._fault(sequence) for sequence in range(first, last + 1)]
            lost = self.faults_lost if found else 0  # those were overwritten meanwhile
        return [fault for fault in found if fault is not None and fault.sequence > lost]

    def _fault(self, sequence: int) -> ProtectionFault | None:
        """Return a fault; it is right unless `faults_lost` counts it by now."""
        control = self._control
        control[Plat.FAULT_SELECT] = sequence
        block = control.block(Plat.FAULT_VALID, _FAULT.size)
        (valid, _, reason, direction, address, length, byte, *grant) = _FAULT.unpack(block)
        if valid != 1:
            return None
        identity, granted, start, size, owner, only, by = grant
        try:
            function = requester_id_of(only)
            nearest = Grant(identity, start, size, GrantDirection(granted), owner, function)
            return ProtectionFault(
                sequence,
                address,
                length,
                DmaDirection(direction),
                DmaReason(reason),
                byte,
                nearest if identity else None,
                requester_id_of(by),
            )
        except ValueError as error:
            raise PlatformDeviceError(f"{self._address}: fault {sequence}: {error}") from error

    def _do(self, command: ProtectionCommand, what: str) -> None:
        """Give a command and wait for its end; the lock is held."""
        self._control[Plat.PROTECTION_CTL] = command
        self._check(self._control[Plat.PROTECTION_STATUS], what)

    def _check(self, value: int, what: str) -> None:
        """Raise the error of a command's status, if it is one."""
        try:
            status = ProtectionStatus(value)
        except ValueError as error:
            raise PlatformDeviceError(
                f"{self._address}: PROTECTION_STATUS reads {value:#x}"
            ) from error
        if status is not ProtectionStatus.OK:
            raise _ERRORS.get(status, ProtectionError)(status, f"{self._address}: {what}")
