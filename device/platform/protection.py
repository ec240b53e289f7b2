# SPDX-License-Identifier: Apache-2.0
"""The protection unit: which bytes of memory devices may read and write. A model, without I/O.

Modelled on RISC-V's IOPMP and on the permissions of an IOMMU, in bytes and not in pages. A grant
opens [address, address + length) to device reads, device writes or both. The union of all grants is
permitted, byte by byte: a request passes when each of its bytes is covered by some grant for its
direction, whether by one, by overlapping ones or by adjacent ones. Otherwise all of it is denied,
and a fault record is kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from dma_rehearsal.device.layout import (
    FAULT_CAPACITY,
    GRANT_CAPACITY,
    DmaDirection,
    DmaReason,
    GrantDirection,
    ProtectionStatus,
)

ADDRESS_END = 1 << 64
OWNER_END = 1 << 64
_ID_END = 1 << 32
_BLOCK = 64
_DIRECTIONS = GrantDirection.IN | GrantDirection.OUT


class ProtectionError(Exception):
    """A command that cannot be done; ``status`` says why, and nothing has changed."""

    def __init__(self, status: ProtectionStatus) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True, slots=True)
class Grant:
    """Bytes that devices may access. ``owner`` is a tag of 64 bits that its maker chose."""

    id: int
    address: int
    length: int
    direction: GrantDirection
    owner: int

    @property
    def end(self) -> int:
        """Return the address behind the last byte."""
        return self.address + self.length


@dataclass(frozen=True, slots=True)
class ProtectionFault:
    """A request that was denied. ``byte`` is its first byte at fault.

    ``nearest`` covers that byte, for PROTECTION_DIRECTION; of several, the one that begins last.
    Otherwise it has the byte nearest to it; of two, the one below. Of grants with the same start or
    end, it is the one with the highest id. None: there was no grant.
    """

    sequence: int
    address: int
    length: int
    direction: DmaDirection
    reason: DmaReason
    byte: int
    nearest: Grant | None


class Coverage:
    """Counts the ranges that cover each address: ``_counts[i]`` from ``_edges[i]`` to the next.

    A change costs the pieces that it covers, a look-up a bisection and a search at C's speed.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Take ranges as pairs of start and end."""
        steps: dict[int, int] = {0: 0}
        for start, end in ranges:
            steps[start] = steps.get(start, 0) + 1
            steps[end] = steps.get(end, 0) - 1
        self._edges = sorted(edge for edge, step in steps.items() if step or not edge)
        self._counts = [*accumulate(steps[edge] for edge in self._edges)]

    def add(self, start: int, end: int, count: int = 1) -> None:
        """Cover [start, end) once more, or once less when ``count`` is -1."""
        first, last = self._edge(start), self._edge(end)
        for index in range(first, last):
            self._counts[index] += count
        self._join(last)
        self._join(first)

    def first_gap(self, start: int, end: int) -> int | None:
        """Return the first address of [start, end) that nothing covers, or None."""
        if start >= end:
            return None
        first = bisect_right(self._edges, start) - 1
        try:
            index = self._counts.index(0, first, bisect_left(self._edges, end))
        except ValueError:
            return None
        return max(start, self._edges[index])

    def _edge(self, address: int) -> int:
        """Return the index of the edge at ``address``; make one."""
        index = bisect_left(self._edges, address)
        if index == len(self._edges) or self._edges[index] != address:
            self._edges.insert(index, address)
            self._counts.insert(index, self._counts[index - 1])
        return index

    def _join(self, index: int) -> None:
        """Drop an edge that divides nothing."""
        if index and self._counts[index - 1] == self._counts[index]:
            del self._edges[index], self._counts[index]


class ProtectionRules:
    """What grants open, and which faults are kept. A named fault gives a unit other rules."""

    def opens(self, grant: Grant) -> tuple[int, int, GrantDirection]:
        """Return what a grant opens: start, end, directions."""
        return grant.address, grant.end, grant.direction

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
        self._opened: dict[int, tuple[int, int, GrantDirection]] = {}  # by the rules of its time
        self._last_id = 0
        self._starts: list[tuple[int, int]] = []  # (first address, id), ascending
        self._reach: list[int] = []  # the end of each of those
        self._tops: list[int] = []  # the last end in each block of those; none: not yet known
        self._ends: list[tuple[int, int]] = []  # (address behind the last, id), ascending
        self._open = {each: Coverage() for each in GrantDirection}
        self._faults.clear()
        self.fault_count = 0

    # Grants.

    def __len__(self) -> int:
        return len(self._grants)

    def grant(self, address: int, length: int, direction: int, owner: int) -> Grant:
        """Open a range. ProtectionError: BAD_ARGUMENT or FULL."""
        in_memory = address >= 0 and 0 < length <= ADDRESS_END - address
        if not in_memory or not 0 <= owner < OWNER_END or not 0 < direction <= _DIRECTIONS:
            raise ProtectionError(ProtectionStatus.BAD_ARGUMENT)
        if len(self._grants) >= self._capacity:
            raise ProtectionError(ProtectionStatus.FULL)
        made = Grant(self._free_id(), address, length, GrantDirection(direction), owner)
        self._grants[made.id] = made
        index = bisect_left(self._starts, (made.address, made.id))
        self._starts.insert(index, (made.address, made.id))
        self._reach.insert(index, made.end)
        self._tops.clear()
        insort(self._ends, (made.end, made.id))
        self._opened[made.id] = self.rules.opens(made)
        self._cover(made.id, 1)
        return made

    def withdraw(self, identity: int) -> Grant:
        """Close what one grant opened and no other does. ProtectionError: NO_SUCH_GRANT."""
        found = self._grants.pop(identity, None)
        if found is None:
            raise ProtectionError(ProtectionStatus.NO_SUCH_GRANT)
        index = bisect_left(self._starts, (found.address, found.id))
        del self._starts[index], self._reach[index]
        self._tops.clear()
        del self._ends[bisect_left(self._ends, (found.end, found.id))]
        self._cover(found.id, -1)
        del self._opened[found.id]
        return found

    def withdraw_owner(self, owner: int) -> int:
        """Withdraw all grants of an owner; return how many those were."""
        kept = {each.id: each for each in self._grants.values() if each.owner != owner}
        withdrawn = len(self._grants) - len(kept)
        if withdrawn:
            # All at once: one by one, thousands that overlap would take seconds.
            self._grants = kept
            self._starts = sorted((each.address, each.id) for each in kept.values())
            self._reach = [kept[identity].end for _, identity in self._starts]
            self._tops.clear()
            self._ends = sorted((each.end, each.id) for each in kept.values())
            self._opened = {identity: self._opened[identity] for identity in kept}
            opened = self._opened.values()
            for direction in GrantDirection:
                ranges = ((start, end) for start, end, which in opened if direction & which)
                self._open[direction] = Coverage(ranges)
        return withdrawn

    def grants_to(self, owner: int) -> bool:
        """Return whether any grant of an owner is in force."""
        return any(each.owner == owner for each in self._grants.values())

    def next_owner(self, owner: int) -> int:
        """Return the least owner of a grant from ``owner`` on. ProtectionError: NO_SUCH_OWNER."""
        found = [each.owner for each in self._grants.values() if each.owner >= owner]
        if not found:
            raise ProtectionError(ProtectionStatus.NO_SUCH_OWNER)
        return min(found)

    def _cover(self, identity: int, count: int) -> None:
        start, end, directions = self._opened[identity]
        for direction in GrantDirection:
            if direction & directions:
                self._open[direction].add(start, end, count)

    def _free_id(self) -> int:
        while True:
            self._last_id = self._last_id % (_ID_END - 1) + 1
            if self._last_id not in self._grants:
                return self._last_id

    # Requests.

    def check(self, address: int, length: int, *, write: bool) -> ProtectionFault | None:
        """Return None when a request passes, else its fault, which is kept.

        One of no bytes passes: it moves nothing.
        """
        if not self.enabled:
            return None
        wanted, other = GrantDirection.OUT, GrantDirection.IN
        if write:
            wanted, other = other, wanted
        byte = self._open[wanted].first_gap(address, address + length)
        if byte is None:
            return None
        reason = DmaReason.PROTECTION_PAST_END
        if self._open[other].first_gap(byte, byte + 1) is None:
            reason = DmaReason.PROTECTION_DIRECTION
        elif byte == address:
            reason = DmaReason.PROTECTION_OUTSIDE
        direction = DmaDirection(write)
        covering = self._covering(byte) if reason is DmaReason.PROTECTION_DIRECTION else None
        sequence = self.fault_count + 1
        nearest = covering or self._nearest(byte)
        fault = ProtectionFault(sequence, address, length, direction, reason, byte, nearest)
        if self.rules.keeps(fault):
            self._keep(fault)
        return fault

    def _keep(self, fault: ProtectionFault) -> None:
        """Keep a fault, which takes the place of the oldest when there is no room."""
        self.fault_count += 1
        self._faults.append(fault)

    def _covering(self, byte: int) -> Grant | None:
        """Return the grant on ``byte`` that begins last."""
        # Thousands may begin, and end, between it and the byte: they are passed by the block.
        if not self._tops:
            starts = range(0, len(self._reach), _BLOCK)
            self._tops = [max(self._reach[start : start + _BLOCK]) for start in starts]
        stop = bisect_right(self._starts, (byte, _ID_END))
        for block in range((stop - 1) // _BLOCK, -1, -1):
            if self._tops[block] > byte:
                first = block * _BLOCK
                for index in range(min(stop, first + _BLOCK) - 1, first - 1, -1):
                    if self._reach[index] > byte:
                        return self._grants[self._starts[index][1]]
        return None

    def _nearest(self, byte: int) -> Grant | None:
        """Return the grant with the byte nearest to ``byte``, on which there is none."""
        begins_before = bisect_right(self._starts, (byte, _ID_END))
        ends_before = bisect_right(self._ends, (byte, _ID_END))
        below = self._grants[self._ends[ends_before - 1][1]] if ends_before else None
        if begins_before == len(self._starts):
            return below
        start = self._starts[begins_before][0]
        last = bisect_right(self._starts, (start, _ID_END)) - 1
        above = self._grants[self._starts[last][1]]
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
