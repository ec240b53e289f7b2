# SPDX-License-Identifier: Apache-2.0
"""The timeline of a run, read from its folder.

    timeline = Timeline.of(Path("build/runs/latest"))
    for event in timeline.select(test="suite/test_mine.py::test_ring"):
        print(event.time_ns, event, timeline.buffers_of(event))

Theory of operation. The sources are files of each VM's folder, all in CLOCK_MONOTONIC: the device's
trace, its log of accesses, the host's own events, and the times of the console. They are merged by
time; equal times keep the order of the sources, and of each file. In that order the buffers and the
flows are found, once. Nothing in the files is trusted: what is malformed or too much is left out,
and a `Lost` event says so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path

from dma_rehearsal.host_harness.machine import console_times, device_process
from dma_rehearsal.host_harness.timeline import access_file, host_events, trace_events
from dma_rehearsal.host_harness.timeline.buffers import Buffer, Lifetimes
from dma_rehearsal.host_harness.timeline.drafts import Draft
from dma_rehearsal.host_harness.timeline.events import (
    HOST,
    Event,
    Lost,
    Range,
    TestBegins,
    TestEnds,
)
from dma_rehearsal.host_harness.timeline.flows import Flow, FlowFinder

EVENTS_MAX = 1 << 19  # of one source of one VM
_VMS_MAX = 64


class TimelineUnavailable(Exception):
    """A folder that does not have a timeline. The message says why."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """One test in one VM. ``end`` is None where it was lost; indices of events, times in ns."""

    __test__ = False  # not a class of tests, for pytest
    name: str
    vm: int
    begin: int
    begin_ns: int
    end: int | None
    end_ns: int | None
    outcome: str


class Timeline:
    """The events of a run, its buffers and its tests; immutable once made."""

    def __init__(self, drafts: Iterable[Draft], *, translated: bool = False) -> None:
        """Put events into their order; `of` reads them from a run's folder.

        ``translated``: devices are behind an IOMMU.
        """
        ordered = sorted(_with_tests(sorted(drafts, key=_when)), key=_when)
        self.start_ns = ordered[0].time_ns if ordered else 0
        """CLOCK_MONOTONIC at the first event."""
        self.events: tuple[Event, ...] = tuple(
            draft.event(index, self.start_ns) for index, draft in enumerate(ordered)
        )
        self._buffers: list[Buffer] = []
        finder = FlowFinder(self._buffers)
        lifetimes: dict[int, Lifetimes] = {}
        self._of_event: list[tuple[int, ...]] = []
        for event in self.events:
            if event.vm not in lifetimes:
                lifetimes[event.vm] = Lifetimes(self._buffers, event.vm, translated=translated)
            found = lifetimes[event.vm].feed(event)
            self._of_event.append(found)
            finder.feed(event, found)
        self.flows: Sequence[Flow] = finder.flows
        self.buffers: Sequence[Buffer] = self._buffers
        self.unfollowed = sum(each.unfollowed for each in lifetimes.values())
        """Buffers beyond those that are followed."""
        self.tests: Sequence[TestRun] = _tests(self.events)

    @classmethod
    def of(cls, folder: Path) -> Timeline:
        """Read the timeline of a run's folder, such as ``build/runs/latest``.

        TimelineUnavailable for a folder without a device's trace.
        """
        places = _of_vms(folder)
        if not places:
            raise TimelineUnavailable(
                f"{folder} has no {device_process.TRACE}: it is not the folder of a run, or the "
                "run ended before its device was up"
            )
        drafts = (draft for vm, place in places for draft in _drafts(place, vm))
        return cls(drafts, translated=_translated(folder))

    # Selection.

    def select(
        self,
        *,
        test: str | None = None,
        vm: int | None = None,
        device: str | None = None,
        memory: Range | None = None,
        buffer: int | None = None,
        kinds: type[Event] | tuple[type[Event], ...] = Event,
        since_ns: int = 0,
        until_ns: int | None = None,
    ) -> Iterator[Event]:
        """Yield the events that meet all conditions, in order.

        ``test``: a node id. ``memory``: a range of bus addresses that the event touches, itself or
        by a buffer of it. ``buffer``: a buffer's number. ``kinds``: classes of events. Times from
        the run's first event on, ``until_ns`` included.
        """
        for event in self.events:
            if until_ns is not None and event.time_ns > until_ns:
                return
            if (
                event.time_ns >= since_ns
                and isinstance(event, kinds)
                and (test is None or event.test == test)
                and (vm is None or event.vm == vm)
                and (device is None or event.device == device)
                and (buffer is None or buffer in self._of_event[event.index])
                and (memory is None or self._touches(event, memory))
            ):
                yield event

    def ranges_of(self, event: Event) -> tuple[Range, ...]:
        """Return the bus addresses that an event is about: its own, or a part of its buffer.

        A sync, or a command of the cache model, tells an offset into its buffer.
        """
        if event.ranges or event.tag is None:
            return event.ranges
        found = self.buffers_of(event)
        if not found:
            return ()
        offset, length = getattr(event, "offset", 0), getattr(event, "length", 0)
        part = found[0].part(offset, length) if length else ()
        return part or tuple(found[0].segments)

    def buffers_of(self, event: Event) -> tuple[Buffer, ...]:
        """Return the buffers that an event is about."""
        return tuple(self._buffers[number - 1] for number in self._of_event[event.index])

    def buffer(self, number: int) -> Buffer:
        """Return a buffer by its number; LookupError for one that there is not."""
        if not 1 <= number <= len(self._buffers):
            raise LookupError(f"no buffer {number}: there are {len(self._buffers)}")
        return self._buffers[number - 1]

    def buffers_at(self, memory: Range) -> list[Buffer]:
        """Return the buffers that ever had a byte of a range, the oldest first."""
        return [each for each in self._buffers if each.overlaps((memory,))]

    def devices(self) -> list[str]:
        """Return the names of the devices, in the order of their first event."""
        return list(dict.fromkeys(each.device for each in self.events))

    def lost(self) -> list[Lost]:
        """Return what the timeline does not have, in order."""
        return [each for each in self.events if isinstance(each, Lost)]

    def _touches(self, event: Event, memory: Range) -> bool:
        first, length = memory
        return any(
            start < first + length and first < start + max(size, 1)
            for start, size in self.ranges_of(event)
        )


_when = attrgetter("time_ns")


def _of_vms(folder: Path) -> list[tuple[int, Path]]:
    """Return the number and the folder of each VM of a run that has a trace."""
    places = [(1, folder), *((number, folder / f"vm{number}") for number in range(2, _VMS_MAX))]
    return [(vm, each) for vm, each in places if (each / device_process.TRACE).is_file()]


def _translated(folder: Path) -> bool:
    """Return whether the devices of a run were behind an IOMMU."""
    try:
        options = json.loads((folder / "environment.json").read_text())["options"]
        return bool(options.get("iommu"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _drafts(folder: Path, vm: int) -> Iterator[Draft]:
    sources = {
        host_events.FILE: host_events.read(folder / host_events.FILE, vm),
        device_process.ACCESSES: access_file.read(folder / device_process.ACCESSES, vm),
        device_process.TRACE: trace_events.read(folder / device_process.TRACE, vm),
        "console.log": host_events.read_console(
            folder / "console.log", folder / console_times.FILE, vm
        ),
    }
    for name, source in sources.items():
        newest = 0
        for draft in islice(source, EVENTS_MAX):
            newest = max(newest, draft.time_ns)
            yield draft
        if left := sum(1 for _ in source):
            yield Draft(newest, vm, Lost, HOST, None, {"source": name, "count": left})


def _with_tests(ordered: Sequence[Draft]) -> Iterator[Draft]:
    """Yield the events, each with its test; where the host did not tell the tests, the trace does.

    A test that the trace alone tells begins with its first event and ends with its last one.
    """
    told = {draft.vm for draft in ordered if draft.kind is TestBegins}
    if told:
        running: dict[int, str | None] = {}
        for draft in ordered:
            if draft.kind is TestBegins:
                running[draft.vm] = draft.test
            yield draft if draft.test else draft._replace(test=running.get(draft.vm))
            if draft.kind is TestEnds:
                running[draft.vm] = None
        return
    last = {(draft.vm, draft.test): number for number, draft in enumerate(ordered)}
    seen: set[tuple[int, str | None]] = set()
    for number, draft in enumerate(ordered):
        key = draft.vm, draft.test
        if draft.test is None:
            yield draft
            continue
        if key not in seen:
            seen.add(key)
            yield Draft(draft.time_ns, draft.vm, TestBegins, HOST, draft.test, _BY_TRACE)
        yield draft
        if last[key] == number:
            yield Draft(draft.time_ns, draft.vm, TestEnds, HOST, draft.test, _BY_TRACE)


_BY_TRACE = {"told_by": "trace"}


def _tests(events: Sequence[Event]) -> list[TestRun]:
    found: list[TestRun] = []
    open_ones: dict[int, TestBegins] = {}
    for event in events:
        if isinstance(event, TestBegins):
            if (lost := open_ones.get(event.vm)) is not None:
                found.append(_run(lost, None))
            open_ones[event.vm] = event
        elif isinstance(event, TestEnds) and event.vm in open_ones:
            found.append(_run(open_ones.pop(event.vm), event))
    found += [_run(each, None) for each in open_ones.values()]
    return sorted(found, key=attrgetter("begin"))


def _run(begin: TestBegins, end: TestEnds | None) -> TestRun:
    ended = (None, None, "") if end is None else (end.index, end.time_ns, end.outcome)
    return TestRun(begin.test or "", begin.vm, begin.index, begin.time_ns, *ended)


def find_tests(timeline: Timeline, words: str) -> Collection[TestRun]:
    """Return the tests whose node id is ``words``, else those that have ``words`` in it."""
    exact = [each for each in timeline.tests if each.name == words]
    return exact or [each for each in timeline.tests if words in each.name]
