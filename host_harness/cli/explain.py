# SPDX-License-Identifier: Apache-2.0
"""Prints the story of a test of a run, or all that happened to an address or a buffer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dma_rehearsal.host_harness.process.errors import NoVerdict, Status, UsageError
from dma_rehearsal.host_harness.process.screen import Screen
from dma_rehearsal.host_harness.session import verdict_record
from dma_rehearsal.host_harness.timeline import story
from dma_rehearsal.host_harness.timeline.buffers import Buffer
from dma_rehearsal.host_harness.timeline.events import Dma, Event, Interrupt, Range
from dma_rehearsal.host_harness.timeline.timeline import (
    TestRun,
    Timeline,
    TimelineUnavailable,
    find_tests,
)

_TESTS_SHOWN = 10
_BUFFERS_SHOWN = 20
_LINES_MAX = 300
_END = 1 << 64
_MS = 1_000_000
_BUFFER = re.compile(r"(?:buffer[ :]?|#)(\d{1,9})")
_ADDRESS = re.compile(r"(0x[0-9a-fA-F]{1,16}|\d{1,20})(?:\+(0x[0-9a-fA-F]{1,16}|\d{1,20}))?")


def run(folder: Path, what: str | None, *, whole: bool = False) -> Status:
    """Print what a run's folder tells of ``what``; return PASSED.

    ``what``: a node id or a part of one, an address (``0x1000`` or ``0x1000+64``), or a buffer
    (``#3``); None for an overview. ``whole``: all lines, and not the first ones alone. UsageError
    for a folder without a timeline, and for what is not in it.
    """
    timeline = of(folder)
    width = Screen.of().width
    lines = _lines(timeline, folder, what, width)
    for line in lines if whole else itertools.islice(lines, _LINES_MAX):
        print(line)
    if (left := sum(1 for _ in lines)) > 0:
        print(f"({left} more lines: --all prints them)")
    return Status.PASSED


def of(folder: Path) -> Timeline:
    """Return the timeline of a run's folder; UsageError without one."""
    try:
        return Timeline.of(folder)
    except TimelineUnavailable as error:
        raise UsageError(str(error), "name a folder below build/runs, or latest") from None


def _lines(timeline: Timeline, folder: Path, what: str | None, width: int) -> Iterator[str]:
    if what is None:
        return _overview(timeline, folder)
    if found := _BUFFER.fullmatch(what):
        return _of_buffer(timeline, int(found[1]), width)
    if found := _ADDRESS.fullmatch(what):
        first, length = int(found[1], 0), int(found[2] or "1", 0)
        if not 0 < length <= _END - first:
            raise UsageError(f"{what}: not bytes of the 64-bit address space", "as 0x1000+64")
        return _of_memory(timeline, (first, length), width)
    return _of_tests(timeline, folder, tests_of(timeline, what), width)


def _overview(timeline: Timeline, folder: Path) -> Iterator[str]:
    outcomes = _outcomes(folder)
    events = timeline.events
    seconds = events[-1].time_ns / 1e9 if events else 0.0
    dmas = [each for each in events if isinstance(each, Dma)]
    interrupts = sum(1 for each in events if isinstance(each, Interrupt))
    yield (
        f"{len(events)} events in {seconds:.1f} s: {len(timeline.tests)} tests, "
        f"{len(timeline.buffers)} buffers, {len(dmas)} DMAs, {interrupts} interrupts"
    )
    yield from (f"not in it: {each.source} ({each.count})" for each in timeline.lost())
    wrong = [each for each in timeline.tests if _outcome(each, outcomes) not in ("passed", "")]
    for test in wrong[:_TESTS_SHOWN]:
        yield f"{_outcome(test, outcomes):8} {test.name}"
    if len(wrong) > _TESTS_SHOWN:
        yield f"and {len(wrong) - _TESTS_SHOWN} more that did not pass"
    if refused := [each for each in dmas if each.refused]:
        byte = refused[-1].address if refused[-1].byte is None else refused[-1].byte
        yield f"{len(refused)} DMAs were refused, the last at {byte:#x}"
    yield "next: dma-rehearsal explain RUN TEST, or an address (0x1000+64), or a buffer (#3)"


def tests_of(timeline: Timeline, what: str) -> list[TestRun]:
    """Return the runs of the one test that ``what`` names; UsageError for none and for several."""
    found = list(find_tests(timeline, what))
    if not found:
        raise UsageError(
            f"{what!r} is not a test of this run, an address or a buffer",
            "leave it out for an overview; a part of a test's name is enough",
        )
    if len({each.name for each in found}) > 1:
        names = "".join(f"\n  {each.name}" for each in found[:_TESTS_SHOWN])
        more = f"\n  and {len(found) - _TESTS_SHOWN} more" if len(found) > _TESTS_SHOWN else ""
        raise UsageError(
            f"{len(found)} tests have {what!r} in their name:{names}{more}", "name one"
        )
    return found


def _of_tests(timeline: Timeline, folder: Path, found: list[TestRun], width: int) -> Iterator[str]:
    outcomes = _outcomes(folder)
    for test in found:
        took = "" if test.end_ns is None else f", {(test.end_ns - test.begin_ns) / _MS:.1f} ms"
        yield f"{test.name}: {_outcome(test, outcomes) or 'no outcome'}, VM {test.vm}{took}"
        until = timeline.events[-1].time_ns if test.end_ns is None else test.end_ns
        events = timeline.select(test=test.name, vm=test.vm, since_ns=test.begin_ns, until_ns=until)
        yield from story.story(timeline, events, zero_ns=test.begin_ns, width=width)


def _of_memory(timeline: Timeline, memory: Range, width: int) -> Iterator[str]:
    buffers = timeline.buffers_at(memory)
    yield f"{memory[1]} bytes at {memory[0]:#x}: {_counted(len(buffers), 'buffer')} held them"
    yield from _of_buffers(timeline, buffers)
    yield from _by_test(timeline, timeline.select(memory=memory), width)


def _of_buffer(timeline: Timeline, number: int, width: int) -> Iterator[str]:
    try:
        buffer = timeline.buffer(number)
    except LookupError as error:
        raise UsageError(str(error.args[0]), "an address finds its buffers") from None
    return itertools.chain(
        _of_buffers(timeline, [buffer]),
        _by_test(timeline, timeline.select(buffer=number), width),
    )


def _of_buffers(timeline: Timeline, buffers: list[Buffer]) -> Iterator[str]:
    several = len({event.vm for event in timeline.events}) > 1
    for each in buffers[:_BUFFERS_SHOWN]:
        where = f" (VM {each.vm})" if several else ""
        yield f"  {story.buffer_in_words(each)}{where}"
    if len(buffers) > _BUFFERS_SHOWN:
        yield f"  and {len(buffers) - _BUFFERS_SHOWN} more"


def _by_test(timeline: Timeline, events: Iterable[Event], width: int) -> Iterator[str]:
    """Yield a story with a line before each test; times are from the run's first event on."""
    for (test, vm), group in itertools.groupby(events, key=lambda each: (each.test, each.vm)):
        yield f"{test or 'between tests'} (VM {vm}):"
        yield from story.story(timeline, group, zero_ns=0, width=width)


def _outcomes(folder: Path) -> dict[str, str]:
    """Return the outcomes of the run's tests; none where it left no verdicts."""
    try:
        return {name: each.outcome for name, each in verdict_record.read(folder).items()}
    except (NoVerdict, KeyError, TypeError, AttributeError):
        return {}


def _outcome(test: TestRun, outcomes: dict[str, str]) -> str:
    return outcomes.get(test.name, test.outcome)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
