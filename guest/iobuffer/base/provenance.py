# SPDX-License-Identifier: Apache-2.0
"""Provenance: where each descriptor was made, and where its memory lies, or lay, on the bus.

`table` and `describe` find the owner of an address, `dropped` the buffers that nobody released.
Nothing here takes a lock, so a finalizer, a signal handler and any thread may come at any time;
a forked child forgets the records of its parent.

"Operations" count the events of descriptors: made, prepared, completed to the last, released.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypedDict

from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import Segment

RECENT_MAX: Final = 1024  # released descriptors that are remembered
DROPPED_MAX: Final = 256
SEGMENTS_MAX: Final = 1024  # of one live descriptor
RECENT_SEGMENTS_MAX: Final = 32  # of one released descriptor
_DEPTH_MAX: Final = 256  # frames that are looked at
_FIRST_SWEEP: Final = 1024
_PACKAGE: Final = "dma_rehearsal.guest.iobuffer"

CallSite = str | tuple[str, int]  # as shown, or (file, line)


def no_clock() -> int:
    """Return 0: requests are not counted."""
    return 0


clock: Callable[[], int] = no_clock
"""Tells when a descriptor was made and released; the device's count of requests, for example."""


class Row(TypedDict):
    """One segment of a descriptor: bus address and length in bytes.

    ``made``, ``completed`` (the last one; "" while it is prepared) and ``released`` ("" while it
    lives) are "file:line"; ``ago`` is how many operations ago it was released, and
    ``released_after`` what the clock said then; both are 0 while it lives.
    """

    address: int
    length: int
    name: str
    direction: str
    made: str
    completed: str
    released: str
    released_after: int
    ago: int


# The line.

_transparent: set[str] = {"contextlib", "threading", "concurrent.futures.thread"}
_skipped: dict[str | None, bool] = {None: False}  # by a module's name
_shown: dict[str, str] = {}  # a file's path as messages have it
_ends: dict[str | None, CallSite] = {}  # by a module's name
_stated: contextvars.ContextVar[str | None] = contextvars.ContextVar("made_at", default=None)


def transparent(*modules: str) -> None:
    """Pass over these modules (and packages, with all in them): their callers make descriptors."""
    _transparent.update(modules)
    _skipped.clear()
    _skipped[None] = False


def ends_at(module: str, place: CallSite) -> None:
    """Give descriptors made below ``module`` this place, if all frames up to there are passed over.

    For example, the module that runs tests, with the line of the test that runs.
    """
    if module not in _ends:
        transparent()
    _ends[module] = place


@contextmanager
def made_by(place: str) -> Iterator[None]:
    """Give descriptors made in the ``with`` this place: their line is elsewhere, as in a thread."""
    token = _stated.set(place)
    try:
        yield
    finally:
        _stated.reset(token)


def here() -> CallSite:
    """Return `caller`'s place; `text` makes words of it, when somebody wants to read it."""
    return _here(sys._getframe(1))


def caller() -> str:
    """Return "file:line" of the first frame outside of this package and what is transparent."""
    return text(_here(sys._getframe(1)))


def _here(start: FrameType) -> CallSite:
    """Return the place of a call; its text is made when somebody wants to read it."""
    stated = _stated.get()
    if stated is not None:
        return stated
    frame: FrameType | None = start
    last = start
    name: str | None = None
    for _ in range(_DEPTH_MAX):
        if frame is None:
            break
        last = frame
        name = frame.f_globals.get("__name__")
        skip = _skipped.get(name)
        if skip is None and name is not None:
            skip = _skipped[name] = _is_skipped(name)
        if not skip:
            break
        frame = frame.f_back
    if name in _ends:
        return _ends[name]
    return last.f_code.co_filename, last.f_lineno or 0


def _is_skipped(name: str) -> bool:
    if name in _ends:
        return False
    parts = name.split(".")
    packages = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return _PACKAGE in packages or not packages.isdisjoint(_transparent)


def text(place: CallSite) -> str:
    """Return a place as messages have it."""
    if isinstance(place, str):
        return place
    path, line = place
    shown = _shown.get(path)
    if shown is None:
        here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118  # a path of text, as given
        shown = _shown[path] = path.removeprefix(here)
    return f"{shown}:{line}"


# The records.


class Record:
    """The history of one descriptor. It keeps nothing alive, and outlives the descriptor.

    ``length`` in bytes; ``segments`` are those of the newest preparation, ``elsewhere`` the
    (offset, length) of what went through a bounce buffer meanwhile, ``bounced`` where devices found
    that, and ``since`` is when its account began, by the clock; ``closed``: that has ended.
    ``prepared``: by somebody, not just by its own making. ``role`` says what the memory is for,
    when that is not its maker's, and ``pool`` where it is from.
    """

    __slots__ = (
        "__weakref__",
        "_completed",
        "_made",
        "_released",
        "bounced",
        "closed",
        "direction",
        "elsewhere",
        "kind",
        "length",
        "made_sequence",
        "newest",
        "number",
        "pool",
        "prepared",
        "released_after",
        "role",
        "segments",
        "since",
    )

    def __init__(self, kind: str, direction: IODirection) -> None:
        self.kind, self.direction = kind, direction
        self.role = self.pool = ""
        self.length = 0
        self.segments: Sequence[Segment] = ()
        self._made = _here(sys._getframe(1))
        self._completed: CallSite = ""
        self._released: CallSite = ""
        self.made_sequence = self.since = clock()
        self.elsewhere: list[Segment] = []
        self.bounced: list[Segment] = []
        self.released_after = 0
        self.closed = self.prepared = False
        self.number = self.newest = _tick()
        _live[self.number] = weakref.ref(self)
        if len(_live) > _sweep_at:
            _sweep()

    @property
    def made_at(self) -> str:
        """The "file:line" that made it."""
        return text(self._made)

    @property
    def completed_at(self) -> str:
        """The "file:line" of its last complete(), "" while it is prepared or never was."""
        return text(self._completed)

    @property
    def released_at(self) -> str:
        """The "file:line" of its release(), "" while it lives."""
        return text(self._released)

    @property
    def name(self) -> str:
        """The name that messages give it."""
        role = f"{self.role}: " if self.role else ""
        return f"{role}{self.kind} of {self.length} bytes"

    @property
    def ago(self) -> int:
        """The number of operations since its release, 0 while it lives."""
        return max(0, _now - self.newest) if self._released else 0

    def begin(self) -> None:
        """Begin an account: see `coverage`."""
        self.since = clock()
        self.elsewhere.clear()
        self.bounced.clear()
        self.prepared = True
        self.closed = False

    def bounces(self, offset: int, length: int, address: int) -> None:
        """Note that a part goes through bounce memory, at that bus ``address``."""
        if len(self.bounced) < SEGMENTS_MAX:
            self.bounced.append((address, length))
        if len(self.elsewhere) < SEGMENTS_MAX and (offset, length) not in self.elsewhere:
            self.elsewhere.append((offset, length))

    def reached(self) -> list[Segment]:
        """Return where devices find its bytes: in the bounce memory, for bytes that bounce."""
        found: list[Segment] = []
        offset = 0
        for address, length in self.segments:
            parts = without(self.elsewhere, offset, length)
            found += ((address + skip, size) for skip, size in parts)
            offset += length
        return found + self.bounced

    def placed(self, segments: Sequence[Segment]) -> None:
        """Note where a preparation has it."""
        if not self.length:  # of a kind that did not say
            self.length = sum(length for _, length in segments)
        if len(segments) > SEGMENTS_MAX:
            segments = segments[:SEGMENTS_MAX]
        self.segments = segments
        self._completed = ""
        self.newest = _tick()

    def complete(self) -> None:
        """Note that the last preparation ended."""
        self._completed = _here(sys._getframe(1))
        self.newest = _tick()

    def release(self) -> None:
        """Note that its memory was given back."""
        self._end(_here(sys._getframe(1)))

    def drop(self) -> None:
        """Note that it is garbage, and nobody had released it."""
        global _dropped_count
        self._end("no line: it was dropped without release()")
        _dropped.append(self)
        _dropped_count += 1

    def _end(self, place: CallSite) -> None:
        _live.pop(self.number, None)
        self._released = place
        self.released_after = clock()
        self.newest = _tick()
        if len(self.segments) > RECENT_SEGMENTS_MAX:
            self.segments = self.segments[:RECENT_SEGMENTS_MAX]
        _recent.append(self)

    def __str__(self) -> str:
        return f"{self.name}, {self.direction.name}, made at {self.made_at}"

    def history(self) -> str:
        """Return its name, and its end."""
        if self._released:
            return f"{self}, released at {self.released_at}, {_operations(self.ago)} ago"
        if self._completed:
            return (
                f"{self}, completed at {self.completed_at}, {_operations(_now - self.newest)} ago"
            )
        return str(self)


def without(parts: Iterable[Segment], offset: int, length: int) -> Iterator[Segment]:
    """Yield (bytes from ``offset`` on, length) of the gaps of a range between ``parts``."""
    at, end = offset, offset + length
    for start, size in sorted(parts):
        if at < end and start < end and at < start + size:
            if at < start:
                yield at - offset, start - at
            at = start + size
    if at < end:
        yield at - offset, end - at


# Each change below is one step of the interpreter, which nothing can come into.
_tick_next = itertools.count(1).__next__
_now = 0
_live: dict[int, weakref.ref[Record]] = {}
_sweep_at = _FIRST_SWEEP
_recent: deque[Record] = deque(maxlen=RECENT_MAX)
_dropped: deque[Record] = deque(maxlen=DROPPED_MAX)
_dropped_count = 0


def _tick() -> int:
    global _now
    _now = number = _tick_next()
    return number


def _operations(count: int) -> str:
    return "1 operation" if count == 1 else f"{max(0, count)} operations"


def _sweep() -> None:
    """Forget descriptors that own no memory and went without release()."""
    global _sweep_at
    for number, reference in list(_live.items()):
        if reference() is None:
            _live.pop(number, None)
    _sweep_at = 2 * len(_live) + _FIRST_SWEEP


def operations() -> int:
    """Return how many operations there were."""
    return _now


def live() -> list[Record]:
    """Return the records of the descriptors that live, oldest first."""
    found = (reference() for reference in list(_live.values()))
    return [record for record in found if record is not None]


def recent() -> list[Record]:
    """Return the records of those that were released last, newest first."""
    return list(_recent)[::-1]


def dropped(*, take: bool = False, since: int = 0) -> list[tuple[str, str]]:
    """Return (name, "file:line" that made it) of the buffers that were dropped without release().

    Oldest first, the newest `DROPPED_MAX` of them; of those made after ``since``, a number of
    `operations`. ``take``: and forget all.
    """
    records = list(_dropped)
    if take:
        for _ in records:
            _dropped.popleft()
    return [(record.name, record.made_at) for record in records if record.number > since]


def dropped_count() -> int:
    """Return how many buffers of this process were dropped without release()."""
    return _dropped_count


def table(limit: int = 256, near: Iterable[int] = ()) -> list[Row]:
    """Return the present and recent owners of bus addresses: one row for each segment.

    The newest first; with ``near``, what is nearest to one of these bus addresses first.
    """
    records = sorted((*live(), *recent()), key=lambda record: -record.newest)
    found = [(record, segment) for record in records for segment in list(record.segments)]
    if wanted := list(near):
        found.sort(key=lambda each: min(_distance(each[1], address) for address in wanted))
    return [_row(record, segment) for record, segment in found[:limit]]


def _row(record: Record, segment: Segment) -> Row:
    return {
        "address": segment[0],
        "length": segment[1],
        "name": record.name,
        "direction": record.direction.name,
        "made": record.made_at,
        "completed": record.completed_at,
        "released": record.released_at,
        "released_after": record.released_after,
        "ago": record.ago,
    }


def _distance(segment: Segment, address: int) -> int:
    """Return how many bytes an address is away from a segment, 0 within it."""
    start, length = segment
    return max(start - address, address - (start + length - 1), 0)


def describe(address: int, length: int) -> str:
    """Name the owner, or last owner, of ``length`` bytes at a bus address; else the nearest one."""
    what = f"{length} bytes at {address:#x}"
    end = address + max(length, 1)
    nearest: tuple[int, str] | None = None
    # Those that live come first; of the others, and of several, the newest.
    for record in (*live()[::-1], *recent()):
        for start, size in list(record.segments):
            if start < end and address < start + size:
                return f"{what}: {_within(start, size, address, length)} {record.history()}"
            gap = start - end if start >= end else address - (start + size)
            if nearest is None or gap < nearest[0]:
                side = "before" if start >= end else "behind"
                nearest = gap, f"{gap} bytes {side} {record.history()}"
    if nearest is None:
        return f"{what}: this process has made nothing for devices"
    return f"{what}: in nothing that this process made; {nearest[1]}"


def _within(start: int, size: int, address: int, length: int) -> str:
    if address < start:
        return f"from {start - address} bytes before the start of"
    if address + length > start + size:
        return f"from {address - start} bytes into, to {address + length - start - size} behind,"
    return f"{address - start} bytes into"


def _after_fork_in_child() -> None:
    """Forget all records: they are the parent's."""
    global _dropped_count, _sweep_at
    for each in _live, _recent, _dropped:
        each.clear()
    _dropped_count, _sweep_at = 0, _FIRST_SWEEP


os.register_at_fork(after_in_child=_after_fork_in_child)
