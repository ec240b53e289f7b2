# SPDX-License-Identifier: Apache-2.0
"""The protection unit's registers, and its place on the interconnect."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device import layout
from dma_rehearsal.device.endpoints.dma import Ranges
from dma_rehearsal.device.endpoints.interconnect import Interconnect, Refusal, Request
from dma_rehearsal.device.endpoints.registers import Access, Register, RegisterFile
from dma_rehearsal.device.layout import (
    Plat,
    ProtectionCommand,
    ProtectionStatus,
    function_address,
    function_word,
    requester_id_of,
)
from dma_rehearsal.device.platform.protection import (
    Grant,
    Protection,
    ProtectionError,
    ProtectionFault,
)
from dma_rehearsal.device.platform.touched import Touched

_WORD = 0xFFFF_FFFF
_INPUTS = (
    *(Plat.GRANT_ADDRESS_LO, Plat.GRANT_ADDRESS_HI, Plat.GRANT_LENGTH_LO, Plat.GRANT_LENGTH_HI),
    *(Plat.GRANT_OWNER_LO, Plat.GRANT_OWNER_HI, Plat.GRANT_DIRECTION, Plat.GRANT_ID),
    Plat.GRANT_FUNCTION,
)
_TOUCHED_INPUTS = (
    *(Plat.TOUCHED_ADDRESS_LO, Plat.TOUCHED_ADDRESS_HI),
    *(Plat.TOUCHED_LENGTH_LO, Plat.TOUCHED_LENGTH_HI),
    *(Plat.TOUCHED_SINCE, Plat.TOUCHED_DIRECTION),
)
_DIRECTIONS = {1: "IN", 2: "OUT", 3: "IN_OUT"}  # each GrantDirection's
_NO_GRANT = Grant(0, 0, 0, layout.GrantDirection(0), 0)


_Field = Callable[[ProtectionFault], int]


def _wide(low: Plat, value: _Field) -> dict[Plat, _Field]:
    """Return the LO and the HI register of a value."""
    return {low: value, Plat(low + 4): lambda fault: value(fault) >> 32}


_FIELDS: dict[Plat, _Field] = {
    Plat.FAULT_SEQUENCE: lambda fault: fault.sequence,
    Plat.FAULT_REASON: lambda fault: fault.reason,
    Plat.FAULT_DIRECTION: lambda fault: fault.direction,
    **_wide(Plat.FAULT_ADDRESS_LO, lambda fault: fault.address),
    **_wide(Plat.FAULT_LENGTH_LO, lambda fault: fault.length),
    **_wide(Plat.FAULT_BYTE_LO, lambda fault: fault.byte),
    Plat.FAULT_GRANT_ID: lambda fault: (fault.nearest or _NO_GRANT).id,
    Plat.FAULT_GRANT_DIRECTION: lambda fault: (fault.nearest or _NO_GRANT).direction,
    **_wide(Plat.FAULT_GRANT_ADDRESS_LO, lambda fault: (fault.nearest or _NO_GRANT).address),
    **_wide(Plat.FAULT_GRANT_LENGTH_LO, lambda fault: (fault.nearest or _NO_GRANT).length),
    **_wide(Plat.FAULT_GRANT_OWNER_LO, lambda fault: (fault.nearest or _NO_GRANT).owner),
    Plat.FAULT_GRANT_FUNCTION: lambda fault: function_word((fault.nearest or _NO_GRANT).function),
    Plat.FAULT_FUNCTION: lambda fault: function_word(fault.function),
}


class ProtectionRegisters:
    """Commands change the unit, and requests ask it, under the interconnect's lock.

    ``event`` writes to the trace: a name and facts.
    """

    def __init__(
        self,
        control: RegisterFile,
        unit: Protection,
        interconnect: Interconnect,
        event: Callable[..., None],
    ) -> None:
        self._control, self._unit = control, unit
        self._touched = Touched()
        self._interconnect, self._event = interconnect, event
        control.add(
            (
                Register(Plat.PROTECTION_CTL, Access.WO),
                Register(Plat.PROTECTION_STATUS, reset=ProtectionStatus.NEVER_RUN),
                Register(Plat.PROTECTION_ENABLED, read=lambda: int(unit.enabled)),
                Register(Plat.GRANT_CAPACITY, reset=layout.GRANT_CAPACITY),
                Register(Plat.GRANT_COUNT, read=lambda: len(unit)),
                Register(Plat.GRANT_WITHDRAWN),
                *(Register(each, Access.RW) for each in _INPUTS),
                Register(Plat.GRANT_STATUS, read=lambda: control[Plat.PROTECTION_STATUS]),
                Register(Plat.GRANT_MADE, read=lambda: control[Plat.GRANT_ID]),
                Register(Plat.FAULT_CAPACITY, reset=layout.FAULT_CAPACITY),
                Register(Plat.FAULT_COUNT, read=lambda: unit.fault_count),
                Register(Plat.FAULT_LOST, read=self._lost),
                Register(Plat.FAULT_SELECT, Access.RW),
                Register(Plat.FAULT_VALID, read=lambda: int(self._selected() is not None)),
                *(Register(each, read=self._reader(field)) for each, field in _FIELDS.items()),
                *(Register(each, Access.RW) for each in _TOUCHED_INPUTS),
                Register(Plat.TOUCHED_KNOWN, read=lambda: int(self._untouched() is not None)),
                Register(Plat.TOUCHED_COUNT_LO, read=self._touched_count),
                Register(Plat.TOUCHED_COUNT_HI, read=lambda: self._touched_count() >> 32),
                Register(Plat.TOUCHED_FIRST_LO, read=self._first_untouched),
                Register(Plat.TOUCHED_FIRST_HI, read=lambda: self._first_untouched() >> 32),
            ),
            self,
        )

    def reset(self) -> None:
        """Turn the unit off; drop all grants and faults."""
        with self._interconnect.lock:
            self._unit.reset()
            self._interconnect.remove_check(self.check)

    def check(self, request: Request) -> Refusal | None:
        """Judge a request of some function."""
        fault = self._unit.check(
            request.address, request.length, write=request.write, function=request.requester_id
        )
        if fault is None:
            return None
        nearest = None if fault.nearest is None else grant_facts(fault.nearest)
        return Refusal(fault.reason, fault.byte, nearest)

    def moved(self, write: bool, ranges: Ranges, sequence: int) -> None:
        """Take note of what a request touches."""
        for address, length in ranges:
            self._touched.note(address, length, sequence, write=write)

    # Commands.

    def write_protection_ctl(self, value: int) -> None:
        """Do a command; its status is then ready."""
        self._control[Plat.GRANT_WITHDRAWN] = 0
        status = ProtectionStatus.OK
        try:
            command = ProtectionCommand(value)
        except ValueError:
            status = ProtectionStatus.UNKNOWN_COMMAND
        else:
            with self._interconnect.lock:
                try:
                    self._do(command)
                except ProtectionError as error:
                    status = error.status
        self._control[Plat.PROTECTION_STATUS] = status

    def _do(self, command: ProtectionCommand) -> None:
        control, unit = self._control, self._unit
        owner = control.pair(Plat.GRANT_OWNER_LO, Plat.GRANT_OWNER_HI)
        if command in (ProtectionCommand.GRANT, ProtectionCommand.GRANT_TO_FUNCTION):
            named = command is ProtectionCommand.GRANT_TO_FUNCTION
            made = unit.grant(
                control.pair(Plat.GRANT_ADDRESS_LO, Plat.GRANT_ADDRESS_HI),
                control.pair(Plat.GRANT_LENGTH_LO, Plat.GRANT_LENGTH_HI),
                control[Plat.GRANT_DIRECTION],
                owner,
                self._function() if named else None,
            )
            control[Plat.GRANT_ID] = made.id
            self._event("grant", **grant_facts(made))
        elif command is ProtectionCommand.WITHDRAW:
            found = unit.withdraw(control[Plat.GRANT_ID])
            control[Plat.GRANT_WITHDRAWN] = 1
            self._event("withdraw", **grant_facts(found))
        elif command is ProtectionCommand.WITHDRAW_OWNER:
            count = unit.withdraw_owner(owner)
            control[Plat.GRANT_WITHDRAWN] = count
            self._event("withdraw owner", owner=hex(owner), count=count)
        elif command is ProtectionCommand.NEXT_OWNER:
            control.set_pair(Plat.GRANT_OWNER_LO, Plat.GRANT_OWNER_HI, unit.next_owner(owner))
        else:
            enabled = command is ProtectionCommand.ENABLE
            if enabled and not unit.enabled:
                self._touched.restart(self._interconnect.sequence)
            unit.enabled = enabled
            # A unit that is off costs a DMA nothing, and a list of thousands nothing thousands of
            # times.
            if enabled:
                self._interconnect.add_check(self.check, self.moved)
            else:
                self._interconnect.remove_check(self.check)
            self._event("protection", enabled=unit.enabled)

    def _function(self) -> int:
        """Return the function that GRANT_FUNCTION names. ProtectionError."""
        try:
            found = requester_id_of(self._control[Plat.GRANT_FUNCTION])
        except ValueError:
            found = None
        if found is None:
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT)
        return found

    # Bytes that requests touched.

    def _range(self) -> tuple[int, int]:
        control = self._control
        return (
            control.pair(Plat.TOUCHED_ADDRESS_LO, Plat.TOUCHED_ADDRESS_HI),
            control.pair(Plat.TOUCHED_LENGTH_LO, Plat.TOUCHED_LENGTH_HI),
        )

    def _untouched(self) -> list[tuple[int, int]] | None:
        """Return what is untouched of the range asked about; None when that is not known."""
        directions = layout.GrantDirection(self._control[Plat.TOUCHED_DIRECTION] & 3)
        with self._interconnect.lock:
            if not self._unit.enabled:
                return None
            since = self._control[Plat.TOUCHED_SINCE]
            return self._touched.untouched(*self._range(), directions, since)

    def _touched_count(self) -> int:
        left = self._untouched() or []
        return self._range()[1] - sum(end - start for start, end in left)

    def _first_untouched(self) -> int:
        address, length = self._range()
        left = self._untouched()
        return left[0][0] - address if left else length

    # Faults.

    def _lost(self) -> int:
        with self._interconnect.lock:
            return self._unit.faults_lost

    def _selected(self) -> ProtectionFault | None:
        with self._interconnect.lock:
            return self._unit.fault(self._control[Plat.FAULT_SELECT])

    def _reader(self, field: _Field) -> Callable[[], int]:
        def read() -> int:
            fault = self._selected()
            return 0 if fault is None else field(fault)

        return read


def grant_facts(grant: Grant) -> dict[str, object]:
    """Return a grant as the trace has it."""
    facts: dict[str, object] = {
        "id": grant.id,
        "address": hex(grant.address),
        "length": grant.length,
        "direction": _DIRECTIONS[grant.direction],
        "owner": hex(grant.owner),
    }
    if grant.function is not None:
        facts["function"] = function_address(grant.function)
    return facts
