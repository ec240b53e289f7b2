# SPDX-License-Identifier: Apache-2.0
"""Sequences of operations and stores, run on the cache model and on its slow reference at once.

A step is a name and its arguments. Whatever chooses the numbers (a seed here, Hypothesis in the
state machine) chooses the steps; a step that makes no sense must be refused by both alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from dma_rehearsal.device.cache_model.masks import runs
from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.cache_model.names import CacheError, Direction, Mode, Release, Span
from dma_rehearsal.device.layout import MemoryType
from tests.unit.device.cache_model.cache_reference import Reference, Refused

Step = tuple[Any, ...]
Choose = Callable[[int], int]  # a number in [0, n)
TAGS = 3
_LINES = {"ram": 4, "rom": 2}  # lines of each backing
_KINDS = ("WB", "WB", "WB", "WT", "WT", "WC", "UC")
_MODES = (Mode.STRICT, Mode.SEEDED)


class Memory:
    """G in byte arrays; counts what the model reads and writes."""

    def __init__(self, backings: dict[str, bytearray]) -> None:
        self.backings = backings

    def read(self, backing: Hashable, offset: int, length: int) -> bytes:
        return bytes(self.backings[str(backing)][offset : offset + length])

    def write(self, backing: Hashable, offset: int, data: bytes) -> None:
        memory = self.backings[str(backing)]
        assert offset + len(data) <= len(memory)
        memory[offset : offset + len(data)] = data

    def write_where(self, backing: Hashable, offset: int, data: bytes, mask: bytes) -> None:
        assert len(mask) == len(data)
        for first, last in runs(mask):
            self.write(backing, offset + first, data[first:last])


class Setting(NamedTuple):
    """One cache."""

    mode: Mode
    line: int
    seed: int


class Difference(AssertionError):
    """The model and the reference disagree after a step."""


class Pair:
    """A model and a reference of the same cache, each with a memory of its own."""

    def __init__(self, setting: Setting, model: MakeModel = CacheModel) -> None:
        self.line = setting.line
        fill = {
            name: bytes((7 * i + len(name)) & 0xFF for i in range(lines * setting.line))
            for name, lines in _LINES.items()
        }
        self.mine = {name: bytearray(data) for name, data in fill.items()}
        self.theirs = {name: bytearray(data) for name, data in fill.items()}
        self.model = model(Memory(self.mine), setting.mode, setting.line, setting.seed)
        self.reference = Reference(self.theirs, setting.mode.name, setting.line, setting.seed)

    def run(self, step: Step) -> None:
        """Take a step on both, and compare all that can be seen. Difference."""
        name, *arguments = step
        ours = self._outcome(lambda: getattr(self, f"_model_{name}")(*arguments))
        theirs = self._outcome(lambda: getattr(self, f"_reference_{name}")(*arguments))
        if ours != theirs:
            raise Difference(f"{step}: the model gives {ours}, the reference {theirs}")
        if self.mine != self.theirs:
            raise Difference(f"{step}: memory is {self.mine}, the reference's {self.theirs}")
        self._compare_reports(step)
        self._compare_lines(step)

    def _outcome(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except CacheError as error:
            return type(error).__name__
        except Refused as error:
            return error.args[0]

    def _compare_reports(self, step: Step) -> None:
        ours: list[tuple[Any, ...]] = []
        theirs: list[tuple[Any, ...]] = list(self.reference.reports)
        self.reference.reports.clear()
        for each in self.model.reports.take():
            named = (each.kind.name, each.missing.name, each.buffer, each.other)
            origin = (each.by.name, each.number, each.last.name, each.last_number)
            # Of a joined report's lines one is shown: the first that differs, where any does.
            due = [
                other
                for other in theirs
                if (*other[:4], *other[8:]) == (*named, *origin)
                and other[5] in range(each.line, each.line + each.lines)
            ]
            differ = [other for other in due if other[6] != other[7]]
            first = min(differ or due, key=lambda other: other[5], default=None)
            if first is None or first[4:8:2] + first[7:8] != (
                each.offset,
                each.expected,
                each.seen,
            ):
                raise Difference(f"{step}: the model shows {each}, and this is due: {first}")
            ours += [(*named, None, each.line + i, None, None, *origin) for i in range(each.lines)]
        for mine in ours:
            for index, other in enumerate(theirs):
                if all(a == b or a is None for a, b in zip(mine, other, strict=True)):
                    del theirs[index]
                    break
            else:
                raise Difference(f"{step}: the model reports {mine}; left of theirs: {theirs}")
        if theirs:
            raise Difference(f"{step}: the model reports {ours}; missing are {theirs}")

    def _compare_lines(self, step: Step) -> None:
        seen = 0
        for name, lines in _LINES.items():
            for index in range(lines):
                offset = index * self.line
                ours = self.model.look(Span(name, offset, self.line))
                theirs = self.reference.lines.get((name, offset))
                if (ours is None) != (theirs is None):
                    raise Difference(f"{step}: line {index} of {name}: {ours}, {theirs}")
                if ours is None or theirs is None:
                    continue
                seen += self.line
                places = range(offset, offset + self.line)
                imaged = bool(theirs.image)
                expected = (
                    *(theirs.kind, tuple(theirs.tags)),
                    *(theirs.cached, theirs.dirty, theirs.fresh, theirs.stale),
                    bytes(theirs.image[i] for i in places) if imaged else b"",
                    bytes(theirs.known[i] for i in places) if imaged else b"",
                    bytes(0xFF * (i in theirs.written) for i in places) if imaged else b"",
                )
                found = (
                    *(ours.type.name, ours.buffers),
                    *(ours.cached, ours.dirty, ours.fresh, ours.read_stale),
                    *(ours.image, ours.known, ours.written),
                )
                if found != expected:
                    raise Difference(f"{step}: line {index} of {name}: {found}, not {expected}")
        pieces = Counter(
            buffer.tag
            for extents in self.model._tracked._extents.values()
            for extent in extents
            for buffer in extent.buffers
        )
        counted = {tag: each.pieces for tag, each in self.model._buffers.items()}
        if counted != pieces:
            raise Difference(f"{step}: pieces of buffers: {counted}, not {pieces}")
        if self.model.tracked_size != seen:
            raise Difference(f"{step}: {self.model.tracked_size} bytes tracked, not {seen}")

    # Each step, on either side.

    def _model_store(self, backing: str, offset: int, data: bytes) -> None:
        self.mine[backing][offset : offset + len(data)] = data

    def _reference_store(self, backing: str, offset: int, data: bytes) -> None:
        self.theirs[backing][offset : offset + len(data)] = data

    def _model_same(self, backing: str, offset: int, length: int) -> None:
        """A CPU store of what is there already: nothing to do, and nothing to see."""

    _reference_same = _model_same

    def _model_track(
        self, tag: int, direction: int, runs: list[tuple[Any, str]], stored: bool
    ) -> None:
        named = [(Span(*span), MemoryType[kind]) for span, kind in runs]
        self.model.track(tag, Direction(direction), named, stored=stored)

    def _reference_track(
        self, tag: int, direction: int, runs: list[tuple[Any, str]], stored: bool
    ) -> None:
        self.reference.track(tag, direction, runs, stored)

    def _model_untrack(self, tag: int, how: str) -> None:
        self.model.untrack(tag, Release[how])

    def _reference_untrack(self, tag: int, how: str) -> None:
        self.reference.untrack(tag, how)

    def _model_read(self, spans: list[Any], no_snoop: bool) -> bytes:
        return self.model.read([Span(*each) for each in spans], no_snoop=no_snoop)

    def _reference_read(self, spans: list[Any], no_snoop: bool) -> bytes:
        return self.reference.read(spans, no_snoop)

    def _model_write(self, spans: list[Any], data: bytes, no_snoop: bool) -> None:
        self.model.write([Span(*each) for each in spans], data, no_snoop=no_snoop)

    def _reference_write(self, spans: list[Any], data: bytes, no_snoop: bool) -> None:
        self.reference.write(spans, data, no_snoop)

    def _model_maintain(self, operation: str, *part: int) -> None:
        getattr(self.model, f"{operation.lower()}_range")(*part)

    def _reference_maintain(self, operation: str, *part: int) -> None:
        self.reference.maintain(operation, *part)

    def _model_sync(self, to: str, tag: int, offset: int, length: int, direction: int) -> None:
        asked = Direction(direction) if direction else None
        getattr(self.model, f"sync_for_{to}")(tag, offset, length, asked)

    def _reference_sync(self, to: str, *arguments: int) -> None:
        getattr(self.reference, f"sync_for_{to}")(*arguments)

    def _model_complete(self, *part: int) -> None:
        self.model.complete(*part)

    def _reference_complete(self, *part: int) -> None:
        self.reference.complete(*part)

    def _model_announce(self, edge: str, *part: int) -> None:
        getattr(self.model, f"announce_{edge}")(*part)

    def _reference_announce(self, edge: str, *part: int) -> None:
        getattr(self.reference, f"announce_{edge}")(*part)


class Steps:
    """Makes steps that mostly make sense, from a source of numbers."""

    def __init__(self, choose: Choose, line: int) -> None:
        self._choose, self._line = choose, line
        self._lengths: dict[int, int] = {}
        self._open: list[tuple[int, int, int]] = []
        self._script: list[Step] = []

    def first(self) -> list[Step]:
        """Return the steps that a sequence begins with: one buffer, mostly synchronised."""
        steps: list[Step] = [self._track(0)]
        if self._choose(4):
            # A fresh buffer's lines hide much: begin behind its first syncs.
            steps.append(("sync", "device", 0, 0, self._lengths[0], 0))
            if self._choose(2):
                steps.append(("sync", "cpu", 0, 0, self._lengths[0], 1))
        return steps

    def next(self) -> Step:
        """Return one more step: any, or the next one of what a driver would do."""
        if self._script and self._choose(3):
            return self._script.pop(0)
        kind = self._choose(26)
        if kind >= 24:
            self._script = self._receive() if self._choose(3) else self._foreign()
        if kind < 6:
            return self._store()
        if kind < 9:
            spans = self._spans()
            return ("read", spans, bool(self._choose(4)))
        if kind < 13:
            spans = self._spans()
            return ("write", spans, self._data(sum(n for _, _, n in spans)), bool(self._choose(4)))
        if kind < 16:
            operation = ("CLEAN", "INVALIDATE", "CLEAN_INVALIDATE")[self._choose(3)]
            return ("maintain", operation, *self._part())
        if kind < 20:
            if not self._choose(8):
                return ("complete", *self._part())
            direction = self._choose(4) if not self._choose(3) else 0
            return ("sync", ("device", "cpu")[self._choose(2)], *self._part(), direction)
        if kind < 22:
            return self._announce()
        tag = self._choose(TAGS)
        if tag in self._lengths and self._choose(4):
            del self._lengths[tag]
            hows = ("SETTLED", "SETTLED", "SETTLED", "GIVEN_UP", "FORGOTTEN")
            return ("untrack", tag, hows[self._choose(len(hows))])
        return self._track(tag)

    def _receive(self) -> list[Step]:
        """Return the calls around a receive, or around two of which the first is not synced."""
        spans = self._spans()
        data = self._data(sum(n for _, _, n in spans))
        part = self._part()
        received: Step = ("write", spans, data, True)
        before, after = ("sync", "device", *part, 0), ("sync", "cpu", *part, 0)
        return [before, received, before, after][self._choose(2) :]

    def _foreign(self) -> list[Step]:
        """Return the calls around a foreign writer."""
        part = self._part()
        backing, offset, length = self._place()
        return [
            *(("sync", "device", *part, 0), ("announce", "begin", *part)),
            ("store", backing, offset, self._data(length)),
            *(("announce", "end", *part), ("sync", "cpu", *part, 0)),
        ]

    def _store(self) -> Step:
        backing, offset, length = self._place()
        if not self._choose(5):
            return ("same", backing, offset, length)
        return ("store", backing, offset, self._data(length))

    def _announce(self) -> Step:
        if self._open and self._choose(2):
            return ("announce", "end", *self._open.pop())
        self._open.append(self._part())
        return ("announce", "begin", *self._open[-1])

    def _track(self, tag: int) -> Step:
        size = {name: lines * self._line for name, lines in _LINES.items()}
        kind = "WP" if not self._choose(60) else _KINDS[self._choose(len(_KINDS))]
        if not self._choose(3):
            # Two runs that join at a line, sometimes of two types, sometimes badly.
            length = self._line + self._choose(self._line)
            after = 2 * self._line if self._choose(2) else size["ram"]
            edge = self._choose(2) if not self._choose(20) else 0
            other = kind if self._choose(3) else _KINDS[self._choose(len(_KINDS))]
            joins = ("ram", after) if after < size["ram"] else ("rom", 0)
            second = (joins[0], joins[1] + edge, 1 + self._choose(self._line + 3))
            runs = [(("ram", after - length, length), kind), (second, other)]
        else:
            backing, offset, _ = self._place()
            longest = size[backing] - offset
            runs = [((backing, offset, 1 + self._choose(longest)), kind)]
        self._lengths[tag] = sum(span[2] for span, _ in runs)
        return ("track", tag, 1 + self._choose(3), runs, not self._choose(4))

    def _part(self) -> tuple[int, int, int]:
        tags = sorted(self._lengths)
        if not tags or not self._choose(30):
            return (self._choose(TAGS), self._choose(4), self._choose(4 * self._line))
        tag = tags[self._choose(len(tags))]
        whole = self._lengths[tag]
        if self._choose(2):
            return (tag, 0, whole)
        offset = self._choose(whole)
        return (tag, offset, 1 + self._choose(whole - offset))

    def _spans(self) -> list[tuple[str, int, int]]:
        if self._choose(6):
            return [self._place()]
        first = 1 + self._choose(self._line)
        return [
            ("ram", 4 * self._line - first, first),
            ("rom", 0, 1 + self._choose(2 * self._line)),
        ]

    def _place(self) -> tuple[str, int, int]:
        backing = ("ram", "ram", "rom")[self._choose(3)]
        size = _LINES[backing] * self._line
        offset = self._choose(size)
        room = size - offset
        length = 1 + self._choose(min(room, (4, self._line, 3 * self._line)[self._choose(3)]))
        return backing, offset, length

    def _data(self, length: int) -> bytes:
        # Few values, so that equal bytes are often written again.
        first, step = self._choose(4), self._choose(2)
        return bytes((first + step * (i & 3)) & 0xFF for i in range(length))


def setting(choose: Choose) -> Setting:
    """Return a cache of any kind."""
    mode = Mode.OFF if not choose(50) else _MODES[choose(2)]
    return Setting(mode, (32, 32, 32, 64, 128, 256)[choose(6)], choose(1000))
