# SPDX-License-Identifier: Apache-2.0
"""Evidence about one test from the device's trace: requests, grants, walks, marks, event kinds.

The device process writes the trace. Grants stay in force from one test to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Range = tuple[int, int]  # bus address of the first byte, bytes
Event = Mapping[str, Any]

PLATFORM = "platform"  # its name in the trace
# Events that QEMU or the kernel causes in any test, and those of the allocator's bookkeeping:
# none of them moves or reads a byte of memory.
_HOUSEKEEPING = {
    *("attach", "detach", "command", "power", "reset", "mark", "tracked"),
    *("grant", "withdraw", "withdraw owner", "protection"),
    # A kernel driver's mappings, and what the guest tells of them.
    *("driver map", "driver unmap", "driver sync", "driver report", "mail failed"),
}
MODEL_FAILED = "model failed"  # a bug in a device's model: its behaviour from then on is unknown
# Ends of a DMA that was not refused.
_ENDED = {"RESET", "CLIENT_GONE"}
MARKS_MAX = 1024  # of one test; each holds the grants in force


@dataclass(frozen=True, slots=True)
class Grant:
    """Bytes that devices may reach, as registered with the protection unit.

    ``function`` is the address of the only function that may use it; empty: every function may.
    """

    id: int
    address: int
    length: int
    direction: str
    owner: int
    function: str = ""

    @classmethod
    def of(cls, facts: Event) -> Grant:
        """Return the grant that an event, or a part of one, describes."""
        return cls(
            int(facts["id"]),
            number(facts["address"]),
            number(facts["length"]),
            str(facts["direction"]),
            number(facts["owner"]),
            str(facts.get("function", "")),
        )

    def overlaps(self, ranges: Iterable[Range]) -> bool:
        """Whether it has a byte of any of ``ranges``."""
        return any(
            self.address < start + length and start < self.address + self.length
            for start, length in ranges
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One request to memory. ``ranges`` are in order; ``moved`` bytes of them were moved.

    ``reason`` is "NONE" or that of a refusal; ``byte`` the first byte at fault. ``position`` counts
    the events of the trace. ``left_out`` are ranges of a long list that the trace does not tell.
    ``function`` is the address of the function, where a refused request has it.
    """

    position: int
    device: str
    sequence: int
    write: bool
    ranges: tuple[Range, ...]
    moved: int
    reason: str
    byte: int | None = None
    nearest: Grant | None = None
    left_out: int = 0
    function: str = ""

    @property
    def refused(self) -> bool:
        """Whether it was refused."""
        return self.reason != "NONE" and self.reason not in _ENDED

    @property
    def address(self) -> int:
        """The first byte."""
        return self.ranges[0][0] if self.ranges else 0

    @property
    def length(self) -> int:
        """The bytes of all ranges."""
        return sum(length for _, length in self.ranges)

    def moved_ranges(self) -> list[Range]:
        """Return the ranges as far as bytes were moved."""
        left, found = self.moved, []
        for start, length in self.ranges:
            if left <= 0:
                break
            found.append((start, min(length, left)))
            left -= length
        return found

    def moved_within(self, ranges: Sequence[Range]) -> list[Range]:
        """Return those parts of ``ranges`` in which it moved bytes."""
        if not self.moved:
            return []
        return [
            (max(start, low), min(start + length, low + size) - max(start, low))
            for start, length in self.moved_ranges()
            for low, size in ranges
            if start < low + size and low < start + length
        ]


class WalkRun(NamedTuple):
    """Consecutive pages of a walk: where they are, in bytes, and their effective type.

    ``pat_index`` is the entry of IA32_PAT that their page-table entries select.
    """

    va: int
    physical: int
    length: int
    effective: str
    pat_index: int


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk of page tables by the platform's witness."""

    position: int
    ok: bool
    runs: tuple[WalkRun, ...]

    def over(self, va: int, length: int) -> list[tuple[int, int, int, str]]:
        """Return the runs of [va, va + length), cut to it; none when it did not see all of it.

        Each is (va, physical, length, effective type).
        """
        found, position = [], va
        for start, physical, size, kind, _ in sorted(self.runs):
            if start <= position < start + size and position < va + length:
                part = min(start + size, va + length) - position
                found.append((position, physical + position - start, part, kind))
                position += part
        return found if position == va + length else []


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of the guest's, and what the protection unit let devices reach at that moment."""

    position: int
    protected: bool
    grants: tuple[Grant, ...]


class Grants:
    """The grants in force, followed event by event."""

    def __init__(self) -> None:
        self.enabled = False
        self._grants: dict[int, Grant] = {}

    def feed(self, event: Event) -> Grant | None:
        """Take an event of the platform; return the grant that it makes."""
        kind = event.get("event")
        if kind == "grant" or (kind == "driver map" and "id" in event):
            made = Grant.of(event)
            self._grants[made.id] = made
            return made
        if kind == "withdraw":
            self._grants.pop(int(event["id"]), None)
        elif kind == "withdraw owner" or (kind == "driver unmap" and "owner" in event):
            owner = number(event["owner"])
            self._grants = {k: each for k, each in self._grants.items() if each.owner != owner}
        elif kind == "protection":
            self.enabled = bool(event["enabled"])
        elif kind == "reset" and event.get("device") == PLATFORM:
            self.enabled = False
            self._grants.clear()
        return None

    def now(self) -> tuple[Grant, ...]:
        """Return those in force."""
        return tuple(self._grants.values())


@dataclass(slots=True)
class Evidence:
    """The devices' actions during one test. ``kinds`` are the kinds of events but housekeeping.

    ``walks`` are those that the guest asked the witness for, ``tracked`` those by which the cache
    model took the types of a buffer's memory.

    ``full``: the trace had no room for all of it. ``newest``: the number of the newest request, and
    ``missing`` the first and the last of those that the trace leaves out, where it does first.
    """

    requests: list[Request] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    tracked: list[Walk] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    granted: list[tuple[int, Grant]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    full: bool = False
    newest: int | None = None
    missing: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, events: Iterable[Event], grants: Grants | None = None, newest: int | None = None
    ) -> Evidence:
        """Read the events of a test; ``grants`` is what was in force before, and is taken on.

        ``newest`` is the number of the newest request before; None: not known.
        """
        found, unit = cls(newest=newest), grants or Grants()
        for position, event in enumerate(events):
            found._take(position, event, unit)
        return found

    def _take(self, position: int, event: Event, unit: Grants) -> None:
        kind = str(event.get("event"))
        if made := unit.feed(event):
            self.granted.append((position, made))
        elif kind == "request":
            request = _request(position, event)
            if self.newest is not None and request.sequence != self.newest + 1:
                self._lacks(self.newest + 1, request.sequence - 1)
            self.newest = request.sequence
            self.requests.append(request)
        elif kind == "witness":
            self.walks.append(_walk(position, event, ok=event.get("status") == "OK"))
        elif kind == "tracked":
            self.tracked.append(_walk(position, event, ok=True))
        elif kind == "mark" and len(self.marks) < MARKS_MAX:
            self.marks[number(event["number"])] = Mark(position, unit.enabled, unit.now())
        elif kind == "trace is full":
            self.full = True
        if kind not in _HOUSEKEEPING:
            self.kinds.add(kind)

    def end(self, newest: int) -> None:
        """Record the newest request's number from another witness, at the test's end."""
        if self.newest is not None and newest > self.newest and not self.full:
            self._lacks(self.newest + 1, newest)
            self.newest = newest

    def _lacks(self, first: int, last: int) -> None:
        self.missing = self.missing or (first, last)

    @property
    def refusals(self) -> list[Request]:
        """The refused requests, in their order."""
        return [each for each in self.requests if each.refused]

    @property
    def moved(self) -> bool:
        """Whether any byte was moved."""
        return any(each.moved > 0 for each in self.requests)


def number(value: str | int) -> int:
    """Return a number of the trace; addresses come as hexadecimal text."""
    return int(value, 0) if isinstance(value, str) else int(value)


def union(ranges: Iterable[Range]) -> list[Range]:
    """Return the same bytes as ranges that neither overlap nor touch, ascending."""
    found: list[Range] = []
    for start, length in sorted(ranges):
        if length <= 0:
            continue
        if found and start <= found[-1][0] + found[-1][1]:
            first, size = found[-1]
            found[-1] = first, max(size, start + length - first)
        else:
            found.append((start, length))
    return found


def _request(position: int, event: Event) -> Request:
    nearest = event.get("nearest")
    byte = event.get("byte")
    return Request(
        position,
        str(event.get("device", "")),
        int(event["sequence"]),
        bool(event["write"]),
        tuple((number(start), number(length)) for start, length in event["ranges"]),
        int(event["moved"]),
        str(event["reason"]),
        None if byte is None else number(byte),
        None if nearest is None else Grant.of(nearest),
        int(event.get("more", 0)),
        str(event.get("function", "")),
    )


def _walk(position: int, event: Event, *, ok: bool) -> Walk:
    return Walk(
        position,
        ok,
        tuple(
            WalkRun(
                number(run["va"]),
                number(run["physical"]),
                number(run["length"]),
                str(run["effective"]),
                int(run["pat_index"]),
            )
            for run in event.get("runs", ())
        ),
    )
