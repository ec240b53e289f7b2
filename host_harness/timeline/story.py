# SPDX-License-Identifier: Apache-2.0
"""Events as lines for people: a test's story, and all that happened to an address or a buffer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch

from dma_rehearsal.host_harness.timeline.buffers import Buffer
from dma_rehearsal.host_harness.timeline.events import (
    CacheMaintenance,
    CacheReport,
    ConsoleLine,
    Dma,
    DmaRecord,
    DriverCall,
    DriverReport,
    Event,
    Grant,
    Interrupt,
    Lost,
    Other,
    Protection,
    Range,
    RegisterAccess,
    Reset,
    Revocation,
    TestBegins,
    TestEnds,
    Walk,
)
from dma_rehearsal.host_harness.timeline.timeline import Timeline

_SEGMENTS_MAX = 4  # of one event that are written out
_REPEATS = 4  # equal lines in a row from which on they are one
_DEVICE_MAX = 14  # characters of a device's name
_MS = 1_000_000
_REGIONS = {6: "ROM", 7: "config"}


def story(
    timeline: Timeline, events: Iterable[Event], *, zero_ns: int, width: int = 100
) -> Iterator[str]:
    """Yield the lines of events, with times in milliseconds from ``zero_ns`` on.

    Equal events in a row, apart from their times and places, are one line. ``width``: characters.
    """
    for first, last, count, words in _joined(timeline, events):
        when = f"{(first.time_ns - zero_ns) / _MS:+12.3f} ms"
        device = first.device[:_DEVICE_MAX]
        if count > 1:
            span = (last.time_ns - first.time_ns) / _MS
            words = f"{words}  (and {count - 1} more like it, in {span:.3f} ms)"
        head = f"{when}  {device:{_DEVICE_MAX}}  "
        yield from textwrap.wrap(
            words,
            max(width, len(head) + 30),
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        ) or [head.rstrip()]


def _joined(timeline: Timeline, events: Iterable[Event]) -> Iterator[tuple[Event, Event, int, str]]:
    """Yield (first event, last one, how many, the first one's words) of runs that look alike."""
    run: list[tuple[Event, str]] = []
    look: object = None

    def ended() -> Iterator[tuple[Event, Event, int, str]]:
        if len(run) >= _REPEATS:
            yield run[0][0], run[-1][0], len(run), run[0][1]
        else:
            for event, words in run:
                yield event, event, 1, words

    for event in events:
        if isinstance(event, DmaRecord) and event.reason == "NONE":
            continue  # its request tells the same
        now = _look(event)
        if now != look:
            yield from ended()
            run, look = [], now
        run.append((event, _line(timeline, event)))
    yield from ended()


def _look(event: Event) -> object:
    """Return what events have in common that are told as one; another one for each of the rest."""
    if isinstance(event, Dma) and not event.refused:
        return type(event), event.device, event.write, event.length, len(event.segments)
    if isinstance(event, RegisterAccess):
        return type(event), event.device, event.write, event.region, event.register, event.length
    if isinstance(event, Grant | Revocation):
        return type(event), event.ranges[0][1] if event.ranges else 0
    if isinstance(event, CacheMaintenance):
        return type(event), event.command, event.length
    return event.index


def _line(timeline: Timeline, event: Event) -> str:
    """Return an event's words, with the buffers that it is about."""
    buffers = timeline.buffers_of(event)
    about = ", ".join(each.name for each in buffers[:_SEGMENTS_MAX])
    if len(buffers) > _SEGMENTS_MAX:
        about += f" and {len(buffers) - _SEGMENTS_MAX} more"
    return f"{words(event)}  [{about}]" if about else words(event)


def ranges_in_words(ranges: Sequence[Range]) -> str:
    """Return ranges as people read them: "64 bytes at 0x1000"."""
    shown = [f"{length} bytes at {start:#x}" for start, length in ranges[:_SEGMENTS_MAX]]
    if len(ranges) > _SEGMENTS_MAX:
        left = ranges[_SEGMENTS_MAX:]
        shown.append(f"{sum(length for _, length in left)} bytes in {len(left)} more segments")
    return ", ".join(shown) or "nothing"


def buffer_in_words(buffer: Buffer, zero_ns: int = 0) -> str:
    """Return a buffer's line: what it is, where it is, and when it lived."""
    made = f"{(buffer.begin_ns - zero_ns) / _MS:.3f} ms"
    ended = "the end" if buffer.end_ns is None else f"{(buffer.end_ns - zero_ns) / _MS:.3f} ms"
    kind = {"mapping": f"mapping by {buffer.call}", "grant": "grant", "tracked": "tracked memory"}
    physical = " (physical)" if buffer.physical else ""
    direction = f" {buffer.direction}" if buffer.direction else ""
    where = ranges_in_words(buffer.segments)
    return f"{buffer.name}: {kind[buffer.kind]}{direction}, {where}{physical}, {made} to {ended}"


@singledispatch
def words(event: Event) -> str:
    """Return what happened, in words, without its time and device."""
    return type(event).__name__


@words.register(TestBegins)
def _test_begins(event: TestBegins) -> str:
    return f"the test begins: {event.test}"


@words.register(TestEnds)
def _test_ends(event: TestEnds) -> str:
    outcome = f": {event.outcome}" if event.outcome else ""
    objections = "".join(f"; {each}" for each in event.objections)
    return f"the test ends{outcome}{objections}"


@words.register(ConsoleLine)
def _console_line(event: ConsoleLine) -> str:
    return f"console: {event.text}"


@words.register(Lost)
def _lost(event: Lost) -> str:
    count = f" ({event.count})" if event.count else ""
    return f"not in the timeline: {event.source}{count}"


@words.register(Other)
def _other(event: Other) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in event.facts.items())
    return f"{event.name}: {facts}" if facts else event.name


@words.register(DriverCall)
def _driver_call(event: DriverCall) -> str:
    direction = f" {event.direction}" if event.direction else ""
    what = ""
    if event.segments:
        what = f": {ranges_in_words(event.segments)}"
    elif event.length:
        what = f": {event.length} bytes from byte {event.offset} on"
    caller = f", called from {event.place}" if event.place else ""
    if event.callers and not caller:
        caller = f", called from {event.callers[0]:#x}"
    return f"driver: {event.call or event.action}{direction}{what}{caller}"


@words.register(DriverReport)
def _driver_report(event: DriverReport) -> str:
    where = f": {ranges_in_words(event.ranges)}" if event.ranges else ""
    return f"the driver's mistake: {event.kind} in {event.call}{where}"


@words.register(RegisterAccess)
def _register_access(event: RegisterAccess) -> str:
    region = _REGIONS.get(event.region, f"BAR{event.region}")
    place = event.register or f"{region} {event.offset:#x}"
    times = f" {event.count} times, in {event.span_ns / _MS:.3f} ms" if event.count > 1 else ""
    if event.write:
        bell = ", and the device acts" if event.acts else ""
        return f"write {place} = {event.value:#x}{times}{bell}"
    return f"read  {place} = {event.value:#x}{times}"


@words.register(Dma)
def _dma(event: Dma) -> str:
    verb = "writes" if event.write else "reads"
    said = f"DMA {event.sequence} {verb} {ranges_in_words(event.segments)}"
    if event.more:
        said += f" and {event.more} more segments"
    if not event.snooped:
        said += ", not snooped"
    for name, value in event.attributes.items():
        said += f", {name} {value}"
    if event.reason != "NONE":
        end = "REFUSED" if event.refused else "ended"
        said += f": {end}: {event.reason}"
        said += f" at {event.byte:#x}" if event.byte is not None else ""
        said += f", {event.moved} bytes had moved" if event.moved else ""
    return said


@words.register(DmaRecord)
def _dma_record(event: DmaRecord) -> str:
    return (
        f"the device's record {event.sequence}: {event.direction} of {event.length} bytes at "
        f"{event.address:#x}: {event.status}, {event.reason}, {event.moved} bytes moved"
    )


@words.register(Interrupt)
def _interrupt(event: Interrupt) -> str:
    name = "INTx" if event.kind == "intx" else f"{event.kind.upper()} {event.vector}"
    masked = ": it is masked" if event.action == "pending" else ""
    return f"interrupt {name} {event.action}{masked}"


@words.register(Reset)
def _reset(event: Reset) -> str:
    return f"reset: {event.kind}"


@words.register(Grant)
def _grant(event: Grant) -> str:
    return f"grant {event.id}: devices may {event.direction}: {ranges_in_words(event.ranges)}"


@words.register(Revocation)
def _revocation(event: Revocation) -> str:
    if event.id is None:
        return f"{event.count} grants of owner {event.owner:#x} are taken back"
    return f"grant {event.id} is taken back: {ranges_in_words(event.ranges)}"


@words.register(Protection)
def _protection(event: Protection) -> str:
    return f"the protection unit is turned {'on' if event.enabled else 'off'}"


@words.register(CacheMaintenance)
def _cache_maintenance(event: CacheMaintenance) -> str:
    if event.tag is None:
        return f"cache: {event.command}"
    part = f" {event.length} bytes from byte {event.offset} on" if event.length else ""
    return f"cache: {event.command}{part} of tag {event.buffer_tag:#x}"


@words.register(Walk)
def _walk(event: Walk) -> str:
    types = ", ".join(dict.fromkeys(run.memory_type for run in event.runs))
    size = sum(run.length for run in event.runs)
    if event.tag is None:
        return f"page tables walked: {event.status}, {size} bytes, {types or 'no page'}"
    return f"cache: tag {event.tag:#x} is tracked: {size} bytes of {types}"


@words.register(CacheReport)
def _cache_report(event: CacheReport) -> str:
    at = f"line {event.line}" if event.lines == 1 else f"{event.lines} lines from {event.line} on"
    return (
        f"CACHE MISTAKE {event.kind}: missing {event.missing}; {at}, found by {event.by}, "
        f"after {event.last}"
    )
