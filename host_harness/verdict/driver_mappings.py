# SPDX-License-Identifier: Apache-2.0
"""The mappings of a kernel driver, followed event by event in the device's trace.

The guest's kernel module tells them to the platform by the mailbox. They name memory in messages,
and the DMA that touched them is what the promises of the DMA API are judged by.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.verdict.evidence import Event, Range, number, union

_ENDED_MAX = 4096  # mappings that are remembered after their end
_LIVE_MAX = 1 << 18  # mappings at a time; the platform admits fewer
_CALLERS_MAX = 4
_SMALL = 1 << 18  # bytes of a range
_UNION_AT = 64  # ranges of touched bytes, which are then joined
_UNION_MAX = 1024  # ranges of one mapping; more are left out of its count
OPERATIONS = ("driver map", "driver unmap", "driver sync")
LINUX_DIRECTIONS = {
    "IN": "DMA_FROM_DEVICE",
    "OUT": "DMA_TO_DEVICE",
    "IN_OUT": "DMA_BIDIRECTIONAL",
    "": "no direction",
}
# Linux's functions by the names of DmaCall, as far as the operations tell them apart.
FUNCTIONS = {
    "ALLOC_COHERENT": "dma_alloc_coherent",
    "ALLOC_PAGES": "dma_alloc_pages",
    "ALLOC_NONCONTIGUOUS": "dma_alloc_noncontiguous",
    "MAP_PAGE": "dma_map_single/page",
    "MAP_SG": "dma_map_sg",
    "MAP_RESOURCE": "dma_map_resource",
    "FREE_COHERENT": "dma_free_coherent",
    "FREE_PAGES": "dma_free_pages",
    "FREE_NONCONTIGUOUS": "dma_free_noncontiguous",
    "UNMAP_PAGE": "dma_unmap_single/page",
    "UNMAP_SG": "dma_unmap_sg",
    "UNMAP_RESOURCE": "dma_unmap_resource",
    "SYNC_SINGLE_FOR_CPU": "dma_sync_single_for_cpu",
    "SYNC_SINGLE_FOR_DEVICE": "dma_sync_single_for_device",
    "SYNC_SG_FOR_CPU": "dma_sync_sg_for_cpu",
    "SYNC_SG_FOR_DEVICE": "dma_sync_sg_for_device",
    "MMAP": "dma_mmap_coherent",
    "GET_SGTABLE": "dma_get_sgtable",
    "SET_MASK": "dma_set_mask",
    "SET_COHERENT_MASK": "dma_set_coherent_mask",
    "BIND": "the probe",
    "UNBIND": "the unbind",
    "NONE": "",
}


def function_of(call: str) -> str:
    """Return the function of Linux for the name of a DmaCall."""
    return FUNCTIONS.get(call, call)


@dataclass(slots=True)
class Mapping:
    """One mapping or allocation, also after its end. ``number`` counts the driver's operations.

    ``ranges`` are bus addresses and bytes; ``callers`` return addresses of the kernel, innermost
    first. ``ended`` is the number of the operation that ended it, 0 before; ``ended_by`` that call.
    """

    tag: int
    call: str
    direction: str
    ranges: list[Range]
    callers: tuple[int, ...]
    number: int
    ended: int = 0
    ended_by: str = ""
    ended_callers: tuple[int, ...] = ()
    touched: dict[bool, list[Range]] = field(default_factory=lambda: {False: [], True: []})
    requests: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    @property
    def address(self) -> int:
        """The first byte on the bus."""
        return self.ranges[0][0]

    @property
    def length(self) -> int:
        """Its bytes."""
        return sum(length for _, length in self.ranges)

    def touch(self, ranges: Sequence[Range], *, write: bool) -> None:
        """Take note of bytes that a request of a device moved here."""
        self.requests[write] += 1
        found = self.touched[write]
        if len(found) < _UNION_MAX:
            found += ranges
            if len(found) > _UNION_AT:
                found[:] = union(found)

    def moved(self, *, write: bool) -> int:
        """Return how many of its bytes devices moved, each byte counted once."""
        return sum(length for _, length in union(self.touched[write]))


class DriverMappings:
    """All mappings of the drivers of a run. `feed` takes the events in their order."""

    def __init__(self) -> None:
        self._live: dict[int, Mapping] = {}  # by tag
        self._parts: dict[int, int] = {}  # tags of parts, and those of their mappings
        # First byte, length, tag; sorted. Those in _large are few, and looked at one by one.
        self._small: list[tuple[int, int, int]] = []
        self._large: list[tuple[int, int, int]] = []
        self._ended: deque[Mapping] = deque(maxlen=_ENDED_MAX)
        self.operations = 0

    def feed(self, event: Event) -> Mapping | None:
        """Take an event of the trace; return the mapping that it begins."""
        kind = event.get("event")
        if kind in OPERATIONS:
            self.operations += 1
        if kind == "driver map":
            return self._begin(event)
        if kind == "driver unmap":
            self._end(event)
        elif kind == "grant":
            self._widen(event)
        elif kind == "request" and int(event["moved"]) and self._live:
            self._touch(event)
        elif kind == "reset" and event.get("device") == "platform":
            for tag in list(self._live):
                self._drop(tag)
        return None

    def of_tag(self, tag: int) -> Mapping | None:
        """Return the mapping with a tag, or a part's; of ended ones the newest."""
        tag = self._parts.get(tag, tag)
        if (found := self._live.get(tag)) is not None:
            return found
        return next((each for each in reversed(self._ended) if each.tag == tag), None)

    def of_owner(self, owner: int) -> Mapping | None:
        """Return the mapping whose grant has this owner."""
        tag = owner ^ MAIL_OWNER_BASE
        return self.of_tag(tag) if tag >> 32 == 0 else None

    def at(self, byte: int) -> Mapping | None:
        """Return the mapping of a byte on the bus; where none is in force, the newest one."""
        for tag, _, _ in self._over([(byte, 1)]):
            return self._live[tag]
        return next(
            (
                each
                for each in reversed(self._ended)
                if any(start <= byte < start + length for start, length in each.ranges)
            ),
            None,
        )

    def now(self) -> list[Mapping]:
        """Return those in force."""
        return list(self._live.values())

    def _begin(self, event: Event) -> Mapping | None:
        tag, whole = number(event["tag"]), event.get("of")
        place = number(event["address"]), number(event["length"])
        if whole is not None:
            self._parts[tag] = self._parts.get(number(whole), number(whole))
            if len(self._parts) > _LIVE_MAX:
                self._parts.clear()
            return None
        if len(self._live) >= _LIVE_MAX:
            return None
        made = Mapping(
            tag,
            str(event["call"]),
            str(event["direction"]),
            [place],
            callers_of(event),
            self.operations,
        )
        self._drop(tag)
        self._live[tag] = made
        self._place(tag, place)
        return made

    def _widen(self, event: Event) -> None:
        """Take one more grant of a mapping, such as that of a scatter list's next segment."""
        tag = number(event["owner"]) ^ MAIL_OWNER_BASE
        if (found := self._live.get(tag)) is not None:
            place = number(event["address"]), number(event["length"])
            found.ranges.append(place)
            self._place(tag, place)

    def _end(self, event: Event) -> None:
        tag = number(event["tag"])
        if self._parts.pop(tag, None) is not None:
            return
        if (found := self._drop(tag)) is not None:
            found.ended, found.ended_by = self.operations, str(event["call"])
            found.ended_callers = callers_of(event)
            self._ended.append(found)

    def _drop(self, tag: int) -> Mapping | None:
        found = self._live.pop(tag, None)
        for start, length in found.ranges if found else ():
            places = self._places(length)
            del places[bisect_left(places, (start, length, tag))]
        return found

    def _place(self, tag: int, place: Range) -> None:
        insort(self._places(place[1]), (*place, tag))

    def _places(self, length: int) -> list[tuple[int, int, int]]:
        return self._large if length > _SMALL else self._small

    def _touch(self, event: Event) -> None:
        write, left = bool(event["write"]), int(event["moved"])
        ranges: list[Range] = []
        for start, length in event["ranges"]:
            if left <= 0:
                break
            ranges.append((number(start), min(number(length), left)))
            left -= number(length)
        parts: dict[int, list[Range]] = {}
        for tag, start, length in self._over(ranges):
            parts.setdefault(tag, []).append((start, length))
        for tag, found in parts.items():
            self._live[tag].touch(found, write=write)

    def _over(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int, int]]:
        """Yield the tag, the first byte and the bytes of each overlap with a mapping in force."""
        for first, size in ranges:
            index = bisect_right(self._small, (first + size - 1, 1 << 64, 0)) - 1
            near = []
            while index >= 0 and self._small[index][0] + _SMALL > first:
                near.append(self._small[index])
                index -= 1
            for start, length, tag in (*near, *self._large):
                low, high = max(start, first), min(start + length, first + size)
                if low < high:
                    yield tag, low, high - low


def callers_of(event: Event) -> tuple[int, ...]:
    """Return the callers that an event has."""
    found: Any = event.get("callers") or ()
    return tuple(number(each) for each in found[:_CALLERS_MAX])
