# SPDX-License-Identifier: Apache-2.0
"""Buffers: what a driver gave to devices, from the call that gave it to the one that took it back.

An address, a tag and the id of a grant are used again; the number of a buffer is not. A mapping of
a kernel driver is one buffer, whatever its segments; so is each grant that the allocator of a guest
test asks for. Memory that a test has the cache model track is a buffer as well: it lives longer
than a grant of it, and a request to it is about both.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.timeline.events import (
    CacheMaintenance,
    Dma,
    DriverCall,
    Event,
    Grant,
    Range,
    Reset,
    Revocation,
    Walk,
)

_SMALL = 1 << 18  # bytes of a segment
_ENDED_MAX = 1024  # that are looked at for a byte which nothing grants
_BUFFERS_MAX = 1 << 18  # in all; more are not followed
_SEGMENTS_MAX = 1 << 14  # of one buffer
_OVER_MAX = 64  # buffers of one request


@dataclass(slots=True)
class Buffer:
    """One lifetime. ``number`` counts from 1, and is never used again.

    ``kind``: "mapping" of a kernel driver, "grant" of the allocator, or "tracked" by the cache
    model alone. ``tag`` is the guest's name for it, None without one. ``begin`` and ``end`` are
    indices of events; ``end`` is None while it lives. ``physical``: the segments are physical
    addresses.
    """

    number: int
    kind: Literal["mapping", "grant", "tracked"]
    vm: int
    test: str | None
    begin: int
    begin_ns: int
    direction: str = ""
    call: str = ""
    tag: int | None = None
    grant_id: int | None = None
    owner: int = 0
    segments: list[Range] = field(default_factory=list)
    physical: bool = False
    end: int | None = None
    end_ns: int | None = None

    @property
    def address(self) -> int:
        """The first byte; 0 without a segment."""
        return self.segments[0][0] if self.segments else 0

    @property
    def length(self) -> int:
        """The bytes of all segments."""
        return sum(length for _, length in self.segments)

    @property
    def name(self) -> str:
        """Its name in text: unique in the timeline."""
        return f"buffer {self.number}"

    def holds(self, byte: int) -> bool:
        """Whether a byte is in one of its segments."""
        return any(start <= byte < start + length for start, length in self.segments)

    def overlaps(self, ranges: Iterable[Range]) -> bool:
        """Whether it has a byte of any of ``ranges``."""
        return any(
            start < low + size and low < start + length
            for low, size in ranges
            for start, length in self.segments
        )

    def part(self, offset: int, length: int) -> tuple[Range, ...]:
        """Return the bus addresses of ``length`` bytes from ``offset`` on."""
        found = []
        for start, size in self.segments:
            low, high = max(offset, 0), min(offset + length, size)
            if low < high:
                found.append((start + low, high - low))
            offset -= size
        return tuple(found)


class _Live:
    """The segments in force in one VM, by their addresses."""

    def __init__(self) -> None:
        # First byte, bytes, buffer's number; sorted. The large ones are few, and looked at each.
        self._small: list[tuple[int, int, int]] = []
        self._large: list[tuple[int, int, int]] = []

    def add(self, segment: Range, number: int) -> None:
        """Enter a segment."""
        insort(self._list(segment[1]), (*segment, number))

    def drop(self, segments: Sequence[Range], number: int) -> None:
        """Take segments out."""
        for start, length in segments:
            places = self._list(length)
            at = bisect_left(places, (start, length, number))
            if at < len(places) and places[at] == (start, length, number):
                del places[at]

    def over(self, ranges: Iterable[Range]) -> Iterator[int]:
        """Yield the numbers of the buffers that have a byte of ``ranges``; some of them twice."""
        for first, size in ranges:
            end = first + max(size, 1)
            index = bisect_right(self._small, (end - 1, 1 << 65, 0)) - 1
            while index >= 0 and self._small[index][0] + _SMALL > first:
                start, length, number = self._small[index]
                if first < start + length:
                    yield number
                index -= 1
            for start, length, number in self._large:
                if start < end and first < start + length:
                    yield number

    def _list(self, length: int) -> list[tuple[int, int, int]]:
        return self._large if length > _SMALL else self._small


class Lifetimes:
    """Follows the buffers of one VM. `feed` takes its events in their order.

    ``buffers`` is the timeline's list of all, which grows. ``translated``: devices are behind an
    IOMMU, and the physical addresses of tracked memory are not those of requests.
    """

    def __init__(self, buffers: list[Buffer], vm: int, *, translated: bool = False) -> None:
        self._all, self._vm, self._translated = buffers, vm, translated
        self._live = _Live()
        self._by_tag: dict[int, int] = {}
        self._parts: dict[int, int] = {}  # tags of a mapping's parts, and their mapping's
        self._by_grant: dict[int, int] = {}
        self._by_owner: dict[int, set[int]] = {}
        self._ended: deque[int] = deque(maxlen=_ENDED_MAX)
        self.unfollowed = 0  # buffers beyond `_BUFFERS_MAX`

    def feed(self, event: Event) -> tuple[int, ...]:
        """Take an event; return the numbers of the buffers that it is about.

        A request that was refused is also about the newest buffer that had its byte at fault.
        """
        if isinstance(event, DriverCall):
            return self._call(event)
        if isinstance(event, Grant):
            return self._grant(event)
        if isinstance(event, Revocation):
            return self._revoke(event)
        if isinstance(event, Dma):
            return self._dma(event)
        if isinstance(event, Walk) and event.tag is not None:
            return self._track(event, event.tag)
        if isinstance(event, CacheMaintenance) and event.command == "CONFIGURE":
            self._forget_tracked(event)
        elif isinstance(event, Reset) and event.device == "platform":
            self._forget_all(event)
        if event.tag is not None:
            found = self._of_tag(event.tag)
            if isinstance(event, CacheMaintenance) and event.command == "UNTRACK" and found:
                self._untrack(event, event.tag, found)
            return (found,) if found else ()
        found_over = dict.fromkeys(self._live.over(event.ranges))
        return tuple(found_over)[:_OVER_MAX]

    def _of_tag(self, tag: int) -> int:
        """Return the number of the buffer with a tag, or a part's; of ended ones the newest."""
        return self._by_tag.get(self._parts.get(tag, tag), 0)

    # Mappings of a kernel driver.

    def _call(self, event: DriverCall) -> tuple[int, ...]:
        tag = event.buffer_tag
        if event.action != "map":
            found = self._of_tag(tag)
            if found and event.action == "unmap" and self._parts.pop(tag, None) is None:
                self._finish(found, event)
            return (found,) if found else ()
        if event.whole is not None:
            if len(self._parts) < _BUFFERS_MAX:
                self._parts[tag] = self._parts.get(event.whole, event.whole)
            found = self._of_tag(event.whole)
            return (found,) if found else ()
        made = self._make("mapping", event, event.direction)
        if made is None:
            return ()
        made.call, made.tag = event.call, tag
        made.grant_id, made.owner = event.grant_id, MAIL_OWNER_BASE | tag
        self._by_tag[tag] = made.number
        for segment in event.segments:
            self._widen(made, segment)
        return (made.number,)

    # The protection unit.

    def _grant(self, event: Grant) -> tuple[int, ...]:
        tag = event.owner ^ MAIL_OWNER_BASE
        if tag >> 32 == 0 and (number := self._of_tag(tag)):
            mapping = self._all[number - 1]
            if mapping.end is None:
                self._widen(mapping, event.ranges[0])
                return (number,)
        made = self._make("grant", event, event.direction)
        if made is None:
            return ()
        made.grant_id, made.owner = event.id, event.owner
        self._by_grant[event.id] = made.number
        self._by_owner.setdefault(event.owner, set()).add(made.number)
        self._widen(made, event.ranges[0])
        return (made.number,)

    def _revoke(self, event: Revocation) -> tuple[int, ...]:
        if event.id is not None:
            number = self._by_grant.pop(event.id, 0)
            if number:
                self._finish(number, event)
            return (number,) if number else ()
        ended = sorted(self._by_owner.pop(event.owner, ()))
        for number in ended:
            self._finish(number, event)
        return tuple(ended)[:_OVER_MAX]

    def _dma(self, event: Dma) -> tuple[int, ...]:
        found = dict.fromkeys(self._live.over(event.segments))
        if event.refused and event.byte is not None:
            byte = event.byte
            if not any(self._all[each - 1].holds(byte) for each in found):
                late = (each for each in reversed(self._ended) if self._all[each - 1].holds(byte))
                found.update(dict.fromkeys([each for each in [next(late, 0)] if each]))
        return tuple(found)[:_OVER_MAX]

    # The cache model.

    def _track(self, event: Walk, tag: int) -> tuple[int, ...]:
        made = self._make("tracked", event, "")
        if made is None:
            return ()
        made.tag, made.physical = tag, True
        self._by_tag[tag] = made.number
        for run in event.runs:
            if self._translated:
                made.segments.append((run.physical, run.length))
            else:
                self._widen(made, (run.physical, run.length))
        return (made.number,)

    def _untrack(self, event: Event, tag: int, number: int) -> None:
        if self._all[number - 1].kind == "tracked":
            self._finish(number, event)
        self._by_tag.pop(tag, None)

    def _forget_tracked(self, event: Event) -> None:
        for tag, number in list(self._by_tag.items()):
            if self._all[number - 1].kind == "tracked":
                self._finish(number, event)
                del self._by_tag[tag]

    # All.

    def _forget_all(self, event: Event) -> None:
        for each in self._all:
            if each.vm == self._vm and each.end is None:
                self._finish(each.number, event)
        for known in self._by_tag, self._by_grant, self._by_owner, self._parts:
            known.clear()

    def _make(
        self, kind: Literal["mapping", "grant", "tracked"], event: Event, direction: str
    ) -> Buffer | None:
        if len(self._all) >= _BUFFERS_MAX:
            self.unfollowed += 1
            return None
        made = Buffer(
            len(self._all) + 1, kind, event.vm, event.test, event.index, event.time_ns, direction
        )
        self._all.append(made)
        return made

    def _widen(self, buffer: Buffer, segment: Range) -> None:
        if len(buffer.segments) < _SEGMENTS_MAX:
            buffer.segments.append(segment)
            self._live.add(segment, buffer.number)

    def _finish(self, number: int, event: Event) -> None:
        buffer = self._all[number - 1]
        if buffer.end is None:
            buffer.end, buffer.end_ns = event.index, event.time_ns
            self._live.drop(buffer.segments, number)
            self._ended.append(number)
            self._by_owner.get(buffer.owner, set()).discard(number)
