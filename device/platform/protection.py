# SPDX-License-Identifier: Apache-2.0
"""The protection unit: which bytes of memory devices may read and write. A model, without I/O.

Modelled on RISC-V's IOPMP and on the permissions of an IOMMU, in bytes and not in pages. A grant
opens [address, address + length) to device reads, device writes or both. The union of all grants is
permitted, byte by byte: a request passes when each of its bytes is covered by some grant for its
direction, whether by one, by overlapping ones or by adjacent ones. Otherwise all of it is denied,
and a fault record is kept. A grant is for every function, or for one, by its requester ID: the
requests of another function pass it by.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dma_rehearsal.device.layout import (
    FAULT_CAPACITY,
    FUNCTION_CAPACITY,
    FUNCTION_END,
    GRANT_CAPACITY,
    DmaDirection,
    DmaReason,
    GrantDirection,
    ProtectionStatus,
)
from dma_rehearsal.device.platform.coverage import Pair, SortedPairs
from dma_rehearsal.device.platform.function_coverage import FunctionCoverage

ADDRESS_END = 1 << 64
OWNER_END = 1 << 64
_ID_END = 1 << 32
_AT_ONCE = 64  # grants of an owner that go at once, where they are more than half of all
# As plain numbers: operations on flags cost more than all the rest of a grant.
_EACH = int(GrantDirection.IN), int(GrantDirection.OUT)
_DIRECTIONS = {int(each): each for each in map(GrantDirection, (1, 2, 3))}

Opened = tuple[int, int, GrantDirection, int | None]  # start, end, directions, function


class ProtectionError(Exception):
    """A command that cannot be done; ``status`` says why, and nothing has changed."""

    def __init__(self, status: ProtectionStatus) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True, slots=True)
class Grant:
    """Bytes that devices may access. ``owner`` is a tag of 64 bits that its maker chose.

    ``function`` is the requester ID of the only function that may use it; None: every function may.
    """

    id: int
    address: int
    length: int
    direction: GrantDirection
    owner: int
    function: int | None = None

    @property
    def end(self) -> int:
        """Return the address behind the last byte."""
        return self.address + self.length


@dataclass(frozen=True, slots=True)
class ProtectionFault:
    """A request of ``function`` that was denied. ``byte`` is its first byte at fault.

    ``nearest`` covers that byte, for PROTECTION_DIRECTION (of the function's own grants) and
    PROTECTION_FUNCTION (of others' grants, one for this direction where there is one); of several,
    the one that begins last. Otherwise it has the byte nearest to it; of two, the one below. Of
    grants with the same start or end, it is the one with the highest id. None: there was no grant.
    """

    sequence: int
    address: int
    length: int
    direction: DmaDirection
    reason: DmaReason
    byte: int
    nearest: Grant | None
    function: int | None = None


class ProtectionRules:
    """What grants open, and which faults are kept. A named fault gives a unit other rules."""

    def opens(self, grant: Grant) -> Opened:
        """Return what a grant opens: start, end, directions, function."""
        return grant.address, grant.end, grant.direction, grant.function

    def keeps(self, fault: ProtectionFault) -> bool:
        """Return whether the unit keeps the record of a denied request."""
        del fault
        return True


class Protection:
    """The grants, and the newest faults. Off, and without a grant, at first. Not locked.

    Other ``rules`` can be given at any time. A grant that is there keeps open what it opened.
    """

    def __init__(self, capacity: int = GRANT_CAPACITY, fault_capacity: int = FAULT_CAPACITY):
        self.rules = ProtectionRules()
        self._capacity = capacity
        self._faults: deque[ProtectionFault] = deque(maxlen=fault_capacity)
        self.reset()

    def reset(self) -> None:
        """Turn it off; drop all grants and faults."""
        self.enabled = False
        self._grants: dict[int, Grant] = {}
        self._opened: dict[int, Opened] = {}  # by the rules of its time
        self._last_id = 0
        self._owned: dict[int, dict[int, Grant]] = {}  # by owner, by id
        self._owners: list[int] | None = []  # ascending; None: not yet sorted
        self._starts = SortedPairs()  # (first address, id)
        self._ends = SortedPairs()  # (address behind the last, id)
        self._named: Counter[int] = Counter()  # grants of each function that one names
        self._open = {direction: FunctionCoverage() for direction in _EACH}
        self._faults.clear()
        self.fault_count = 0

    # Grants.

    def __len__(self) -> int:
        return len(self._grants)

    def grant(
        self, address: int, length: int, direction: int, owner: int, function: int | None = None
    ) -> Grant:
        """Open a range, to one function or to every. ProtectionError: BAD_ARGUMENT or FULL."""
        in_memory = address >= 0 and 0 < length <= ADDRESS_END - address
        if not in_memory or not 0 <= owner < OWNER_END or direction not in _DIRECTIONS:
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT)
        if function is not None and not 0 <= function < FUNCTION_END:
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT)
        if len(self._grants) >= self._capacity:
            raise ProtectionError(ProtectionStatus.FULL)
        if function is not None:
            if function not in self._named and len(self._named) >= FUNCTION_CAPACITY:
                raise ProtectionError(ProtectionStatus.FULL)
            self._named[function] += 1
        made = Grant(self._free_id(), address, length, _DIRECTIONS[direction], owner, function)
        self._grants[made.id] = made
        if owner in self._owned:
            self._owned[owner][made.id] = made
        else:
            self._owned[owner] = {made.id: made}
            self._owners = None
        self._starts.add((address, made.id))
        self._ends.add((made.end, made.id))
        opened = self._opened[made.id] = self.rules.opens(made)
        self._cover(opened, 1)
        return made

    def withdraw(self, identity: int) -> Grant:
        """Close what one grant opened and no other does. ProtectionError: NO_SUCH_GRANT."""
        found = self._grants.get(identity)
        if found is None:
            raise ProtectionError(ProtectionStatus.NO_SUCH_GRANT)
        owned = self._owned[found.owner]
        del owned[identity]
        if not owned:
            self._forget_owner(found.owner)
        self._close(found)
        return found

    def withdraw_owner(self, owner: int) -> int:
        """Withdraw all grants of an owner; return how many those were."""
        owned = self._owned.get(owner)
        if owned is None:
            return 0
        self._forget_owner(owner)
        work = 2 * len(owned) * (1 + len(self._named))  # a grant may change all coverages
        if len(owned) >= _AT_ONCE and work > len(self._grants):
            self._keep_all_but(owned)
        else:
            for each in owned.values():
                self._close(each)
        return len(owned)

    def _forget_owner(self, owner: int) -> None:
        del self._owned[owner]
        self._owners = None

    def _close(self, grant: Grant) -> None:
        del self._grants[grant.id]
        self._uncount(grant)
        self._starts.remove((grant.address, grant.id))
        self._ends.remove((grant.end, grant.id))
        self._cover(self._opened.pop(grant.id), -1)

    def _keep_all_but(self, gone: Mapping[int, Grant]) -> None:
        """Close many grants at once, where most of all are closed."""
        kept = {each.id: each for each in self._grants.values() if each.id not in gone}
        self._grants = kept
        for each in gone.values():
            self._uncount(each)
        self._starts = SortedPairs((each.address, each.id) for each in kept.values())
        self._ends = SortedPairs((each.end, each.id) for each in kept.values())
        self._opened = {identity: self._opened[identity] for identity in kept}
        opened = self._opened.values()
        for direction in _EACH:
            self._open[direction] = FunctionCoverage(
                (start, end, function)
                for start, end, which, function in opened
                if int(which) & direction
            )

    def _uncount(self, grant: Grant) -> None:
        if grant.function is not None:
            self._named[grant.function] -= 1
            if not self._named[grant.function]:
                del self._named[grant.function]

    def grants_to(self, owner: int) -> bool:
        """Return whether any grant of an owner is in force."""
        return owner in self._owned

    def next_owner(self, owner: int) -> int:
        """Return the least owner of a grant from ``owner`` on. ProtectionError: NO_SUCH_OWNER."""
        if self._owners is None:
            self._owners = sorted(self._owned)
        index = bisect_left(self._owners, owner)
        if index == len(self._owners):
            raise ProtectionError(ProtectionStatus.NO_SUCH_OWNER)
        return self._owners[index]

    def _cover(self, opened: Opened, count: int) -> None:
        start, end, directions, function = opened
        for direction, coverage in self._open.items():
            if int(directions) & direction:
                coverage.add(start, end, function, count)

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % (_ID_END - 1) + 1
            if self._last_id not in self._grants:
                return self._last_id

    # Requests.

    def check(
        self, address: int, length: int, *, write: bool, function: int | None = None
    ) -> ProtectionFault | None:
        """Return None when a request of a function passes, else its fault, which is kept.

        One of no bytes passes: it moves nothing. One of a function whose requester ID is not known
        passes by grants for any function.
        """
        if not self.enabled:
            return None
        wanted, other = _EACH if write else _EACH[::-1]
        byte = self._open[wanted].first_gap(address, address + length, function)
        if byte is None:
            return None
        nearest: Grant | None = None
        if self._is_open(other, byte, function):
            reason = DmaReason.PROTECTION_DIRECTION
            nearest = self._covering(
                byte, lambda each: function is None or each.function in (None, function)
            )
        elif self._is_open(wanted, byte, None) or self._is_open(other, byte, None):
            reason = DmaReason.PROTECTION_FUNCTION
            nearest = self._covering(byte, lambda each: bool(int(each.direction) & wanted))
            nearest = nearest or self._covering(byte, lambda _: True)
        elif byte == address:
            reason = DmaReason.PROTECTION_OUTSIDE
        else:
            reason = DmaReason.PROTECTION_PAST_END
        fault = ProtectionFault(
            self.fault_count + 1,
            address,
            length,
            DmaDirection(write),
            reason,
            byte,
            nearest or self._nearest(byte),
            function,
        )
        if self.rules.keeps(fault):
            self._keep(fault)
        return fault

    def _is_open(self, direction: int, byte: int, function: int | None) -> bool:
        return self._open[direction].first_gap(byte, byte + 1, function) is None

    def _keep(self, fault: ProtectionFault) -> None:
        """Keep a fault, which takes the place of the oldest when there is no room."""
        self.fault_count += 1
        self._faults.append(fault)

    def _covering(self, byte: int, among: Callable[[Grant], bool]) -> Grant | None:
        """Return the grant on ``byte`` that begins last ``among`` some."""
        last = self._starts.last_with(
            self._end_of, byte, (byte, _ID_END), lambda pair: among(self._grants[pair[1]])
        )
        return None if last is None else self._grants[last[1]]

    def _end_of(self, start: Pair) -> int:
        return self._grants[start[1]].end

    def _nearest(self, byte: int) -> Grant | None:
        """Return the grant with the byte nearest to ``byte``, on which there is none."""
        before = self._ends.up_to((byte, _ID_END))
        behind = self._starts.above((byte, _ID_END))
        below = self._grants[before[1]] if before else None
        last = self._starts.up_to((behind[0], _ID_END)) if behind else None
        if last is None:
            return below
        above = self._grants[last[1]]
        return below if below and byte - below.end < above.address - byte else above

    # Faults.

    @property
    def faults_lost(self) -> int:
        """Return how many faults were overwritten."""
        return self.fault_count - len(self._faults)

    def fault(self, sequence: int) -> ProtectionFault | None:
        """Return a fault by its sequence number, if it is held."""
        index = sequence - self.faults_lost - 1
        return self._faults[index] if 0 <= index < len(self._faults) else None
