# SPDX-License-Identifier: Apache-2.0
"""The trace of one test as far as a kernel driver is concerned: its mistakes, and its mappings.

It is read in order, because a message names the mapping as it was at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from dma_rehearsal.host_harness.verdict.driver_mappings import (
    OPERATIONS,
    DriverMappings,
    Mapping,
    callers_of,
)
from dma_rehearsal.host_harness.verdict.evidence import Event, Request, number

_KEPT_MAX = 4096  # mistakes of one test; more are counted
_NAMED_MAX = 256  # refusals whose memory is named
_MARKS_MAX = 1 << 16
_MAPPINGS_MAX = 1 << 17  # of one test; more are not judged
# What finds a report in the midst of the driver's own call, whose event follows.
_IN_A_CALL = {"UNTRACK", "SYNC_FOR_DEVICE", "SYNC_FOR_CPU"}


@dataclass(slots=True)
class Mistake:
    """A report of the module or of the cache model. ``position`` counts the test's events.

    ``kind`` is the name to announce it by, ``mapping`` what it is about as it was then, and
    ``other`` a second buffer. ``call`` and ``callers`` are the driver's call that found it.
    """

    position: int
    kind: str
    event: Event
    mapping: Mapping | None
    operations: int
    other: Mapping | None = None
    call: str = ""
    callers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedAt:
    """The mappings that a refused request is about, as they were then.

    ``there``: of the byte at fault, ``nearest``: of the nearest grant.
    """

    there: Mapping | None
    nearest: Mapping | None
    operations: int


@dataclass(slots=True)
class DriverView:
    """One test's events. ``lost`` counts mistakes beyond those kept, ``unchecked`` has reasons."""

    mistakes: list[Mistake] = field(default_factory=list)
    refused: dict[int, RefusedAt] = field(default_factory=dict)  # by sequence
    marks: dict[int, int] = field(default_factory=dict)  # positions by numbers
    mappings: list[Mapping] = field(default_factory=list)
    lost: int = 0
    unchecked: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, events: Iterable[Event], mappings: DriverMappings, refusals: Iterable[Request] = ()
    ) -> DriverView:
        """Read a test's events; ``mappings`` has those before, and is taken on."""
        found = cls(mappings=mappings.now())
        wanted = {each.position: each for each in refusals}
        waiting: dict[int, list[Mistake]] = {}
        for position, event in enumerate(events):
            made = mappings.feed(event)
            if made is not None and len(found.mappings) < _MAPPINGS_MAX:
                found.mappings.append(made)
            if (refused := wanted.get(position)) is not None:
                found._refusal(refused, mappings)
            found._take(position, event, mappings, waiting)
        return found

    def _take(
        self,
        position: int,
        event: Event,
        mappings: DriverMappings,
        waiting: dict[int, list[Mistake]],
    ) -> None:
        kind = event.get("event")
        if kind in OPERATIONS:
            for each in waiting.pop(number(event["tag"]), ()):
                each.call, each.callers = str(event["call"]), callers_of(event)
        elif kind == "mark" and len(self.marks) < _MARKS_MAX:
            self.marks[number(event["number"])] = position
        elif kind == "driver report":
            mistake = self._mistake(position, f"DriverReportKind.{event['kind']}", event, mappings)
            mistake.call, mistake.callers = str(event["call"]), callers_of(event)
        elif kind == "cache report":
            mistake = self._mistake(position, f"CacheReportKind.{event['kind']}", event, mappings)
            mistake.other = _then(mappings.of_tag(number(event["other"])))
            if event["by"] in _IN_A_CALL:
                waiting.setdefault(number(event["tag"]), []).append(mistake)
        elif kind == "cache reports lost":
            self.unchecked.append(f"{event['count']} more reports, for which it had no room")
        elif kind == "cache unchecked":
            self.unchecked.append(f"{event['command']} of a buffer: {event['why']}")

    def _mistake(self, position: int, kind: str, event: Event, mappings: DriverMappings) -> Mistake:
        tag = event.get("tag")
        mapping = _then(mappings.of_tag(number(tag))) if tag is not None else None
        made = Mistake(position, kind, event, mapping, mappings.operations)
        if len(self.mistakes) < _KEPT_MAX:
            self.mistakes.append(made)
        else:
            self.lost += 1
        return made

    def _refusal(self, request: Request, mappings: DriverMappings) -> None:
        if len(self.refused) >= _NAMED_MAX:
            return
        byte = request.address if request.byte is None else request.byte
        nearest = request.nearest
        self.refused[request.sequence] = RefusedAt(
            _then(mappings.at(byte)),
            _then(mappings.of_owner(nearest.owner)) if nearest is not None else None,
            mappings.operations,
        )


def _then(mapping: Mapping | None) -> Mapping | None:
    """Return a copy of a mapping, which is as it is now."""
    return None if mapping is None else replace(mapping, ranges=list(mapping.ranges))
