# SPDX-License-Identifier: Apache-2.0
"""The events of failed tests from a device's trace, and the rights to memory that they met."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from dma_rehearsal.host_harness.run_page import moments
from dma_rehearsal.host_harness.run_page.moments import Event, Moment, Range
from dma_rehearsal.host_harness.verdict.evidence import Grants, number, union

_LINE_MAX = 1 << 20  # bytes, as the host's verdict takes
_HEAD = 30  # moments from the beginning of a test
_BEFORE_RED, _REDS = 8, 24  # moments before a refusal or report, and of those
_TAIL = 40  # moments before the end
_READ_WHOLE = 20_000  # events of a test; of later ones only those that are not plain DMA
_OPEN_MAX = 4096  # rights in force that are followed
_SPANS_MAX = 400
# The writer's own order of fields (device/trace.py); a line in another one is not looked at.
_EVENT = re.compile(
    rb'"test": (null|"(?:[^"\\]|\\.)*"), "event": "([^"]*)"(?:, "(?:id|tag|owner)": "?(\w+))?'
)
_OPENS = {b"grant": b"grant", b"driver map": b"mapping", b"tracked": b"track"}
_CLOSES = {b"withdraw": b"grant", b"driver unmap": b"mapping"}


@dataclass(slots=True)
class Span:
    """A right, a mapping or a track from one moment to another, by their positions.

    ``first`` is -1 for what was there before the test; ``last`` None for what is there after it.
    """

    first: int
    last: int | None
    moment: Moment


@dataclass(slots=True)
class Story:
    """The events of a test. ``kept`` are moments with their positions, some left out.

    ``count`` is the number of all; ``unreadable`` of those that are not what their writer writes.
    """

    kept: list[tuple[int, Moment]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    count: int = 0
    unreadable: int = 0

    @property
    def began(self) -> float:
        """The time of the first moment."""
        return self.kept[0][1].time if self.kept else 0.0


def read(path: Path, tests: Collection[str]) -> dict[str, Story]:
    """Return the stories of these tests; none where there is no trace, or nothing of a test."""
    wanted = {json.dumps(test).encode(): test for test in tests}
    found: dict[str, _Reader] = {}
    in_force: dict[bytes, bytes] = {}  # lines by key
    try:
        file = path.open("rb")
    except OSError:
        return {}
    with file:
        for line in _lines(file):
            told = _EVENT.search(line, 0, 2048)
            if told is None:
                continue
            name = wanted.get(told[1])
            if name is not None:
                if name not in found:
                    found[name] = _Reader(in_force.values())
                found[name].take(line, told[2])
            _follow(in_force, told, line)
    return {name: reader.story() for name, reader in found.items()}


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LINE_MAX + 1):
        if line.endswith(b"\n"):
            yield line


def _follow(in_force: dict[bytes, bytes], told: re.Match[bytes], line: bytes) -> None:
    kind, key = told[2], told[3]
    if kind == b"withdraw owner":
        owner = b'"owner": "%s"' % key
        for name in [name for name, each in in_force.items() if owner in each]:
            del in_force[name]
    elif kind == b"protection":
        in_force[kind] = line
    elif kind == b"cache" and b'"command": "CONFIGURE"' in line:
        for name in [name for name in in_force if name.startswith(b"track ")]:
            del in_force[name]
    elif kind == b"reset" and b'"device": "platform"' in line:
        in_force.clear()
    elif key is None:
        return
    elif (opens := _OPENS.get(kind)) is not None:
        if len(in_force) < _OPEN_MAX:
            in_force[opens + b" " + key] = line
    elif (closes := _CLOSES.get(kind)) is not None:
        in_force.pop(closes + b" " + key, None)


class _Reader:
    """Reads the events of one test, of which it keeps a bounded part."""

    def __init__(self, in_force: Collection[bytes]) -> None:
        self._story = Story()
        self._buffers: dict[int, tuple[Range, ...]] = {}
        self._open: dict[str, Span] = {}
        self._owners: dict[str, int] = {}
        self._recent: deque[tuple[int, Moment]] = deque(maxlen=_TAIL)
        self._reds = 0
        self._unit = Grants()
        for line in in_force:
            if (moment := self._moment(line)) is not None:
                self._follow(-1, moment)

    def take(self, line: bytes, kind: bytes) -> None:
        """Take an event."""
        position = self._story.count
        dull = kind == b"dma" or b'"reason": "NONE"' in line
        if position >= _READ_WHOLE and dull:
            self._story.count += 1
            return
        moment = self._moment(line)
        if moment is None:
            return
        self._story.count += 1
        self._follow(position, moment)
        if len(self._story.kept) < _HEAD:
            self._story.kept.append((position, moment))
            return
        self._recent.append((position, moment))
        if moment.red and self._reds < _REDS:
            self._reds += 1
            self._story.kept += list(self._recent)[-_BEFORE_RED - 1 :]
            self._recent.clear()

    def story(self) -> Story:
        """Return the story so far."""
        self._story.kept += self._recent
        self._recent.clear()
        return self._story

    def _moment(self, line: bytes) -> Moment | None:
        try:
            event = json.loads(line)
            self._note(event)
            self._unit.feed(event)  # as the host judges
            moment = moments.of(event, self._buffers)
            if moment is None or moment.mood != "moved" or self._permitted(moment):
                return moment
            what = f"{moment.what}. NO GRANT IN FORCE PERMITS THIS"
            return replace(moment, what=what, label=f"{moment.label}: not granted")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._story.unreadable += 1
            return None

    def _permitted(self, moment: Moment) -> bool:
        """Whether the protection unit's grants, if it is on, cover a DMA that moved bytes."""
        if not self._unit.enabled:
            return True
        ways = ("IN", "IN_OUT") if moment.write else ("OUT", "IN_OUT")
        granted = union(
            (each.address, each.length) for each in self._unit.now() if each.direction in ways
        )
        return all(
            any(first <= start and start + size <= first + whole for first, whole in granted)
            for start, size in moment.ranges
        )

    def _note(self, event: Event) -> None:
        """Keep where a tag's buffer is, and whose a grant is."""
        kind = event["event"]
        if kind == "tracked":
            self._buffers[number(event["tag"])] = moments.runs(event)
        elif kind == "driver map":
            place = (number(event["address"]), number(event["length"]))
            self._buffers[number(event["tag"])] = (place,)
            self._owners[f"mapping {number(event['tag'])}"] = number(event["owner"])
        elif kind == "grant":
            self._owners[f"grant {event['id']}"] = number(event["owner"])

    def _follow(self, position: int, moment: Moment) -> None:
        if moment.opens and len(self._open) < _OPEN_MAX:
            span = Span(position, None, moment)
            self._open[moment.opens] = span
            # What was there before a test takes room only where it is needed.
            if len(self._story.spans) < _SPANS_MAX or position >= 0:
                self._story.spans.append(span)
                del self._story.spans[: max(0, len(self._story.spans) - 2 * _SPANS_MAX)]
        elif moment.closes == "tracks":
            for name in [name for name in self._open if name.startswith("track ")]:
                self._open.pop(name).last = position
        elif moment.closes.startswith("owner "):
            owner = int(moment.closes.removeprefix("owner "))
            for name in [name for name in self._open if self._owners.get(name) == owner]:
                self._open.pop(name).last = position
        elif moment.closes and moment.closes in self._open:
            self._open.pop(moment.closes).last = position
