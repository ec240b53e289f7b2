# SPDX-License-Identifier: Apache-2.0
"""The cache model's rules once more, one byte at a time and as slow as it likes.

It shares no code with the model: only the names of operations and reports, as numbers and strings.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

Place = tuple[str, int]
MISSING = {
    "STORED_WHILE_DEVICE_OWNS": "SYNC_FOR_CPU_BEFORE_STORE",
    "WRITE_TO_DIRTY_LINE": "SYNC_FOR_DEVICE_BEFORE_RECEIVE",
    "DEVICE_BYTES_LOST": "SYNC_FOR_CPU_AFTER_RECEIVE",
    "CPU_BYTES_LOST": "SYNC_FOR_DEVICE_AFTER_STORE",
    "RELEASED_DIRTY": "SYNC_FOR_DEVICE_AFTER_STORE",
    "RELEASED_UNREAD": "SYNC_FOR_CPU_AFTER_RECEIVE",
    "WRONG_DIRECTION": "SYNC_WITH_THE_BUFFERS_DIRECTION",
}


class Refused(Exception):
    """An operation that the model must refuse too; the argument is the error's name."""


class RefLine:
    """One line: dictionaries by offset."""

    def __init__(self, kind: str, origin: int, number: int) -> None:
        self.kind, self.origin, self.number = kind, origin, number
        self.tags: list[int] = []
        self.image: dict[int, int] = {}
        self.known: dict[int, int] = {}
        self.written: set[int] = set()
        self.cached = self.dirty = self.fresh = self.stale = False
        self.last = ("TRACK", 0)


class Reference:
    """A cache of lines of ``size`` bytes; ``memory`` is G by backing."""

    def __init__(self, memory: dict[str, bytearray], mode: str, size: int, seed: int) -> None:
        self.memory, self.mode, self.size, self.seed = memory, mode, size, seed
        self.lines: dict[Place, RefLine] = {}
        self.buffers: dict[int, dict[str, Any]] = {}
        self.announced: dict[tuple[int, int, int], dict[Place, int]] = {}
        self.reports: list[tuple[Any, ...]] = []
        self.number = self.ordinals = 0
        self.operation = ""
        self.tag: int | None = None
        self.mine: set[Place] = set()  # the bytes that the operation is about

    # Places.

    def base(self, place: Place) -> Place:
        return place[0], place[1] // self.size * self.size

    def bytes_of(self, base: Place) -> list[Place]:
        return [(base[0], base[1] + i) for i in range(self.size)]

    def places(self, spans: list[tuple[str, int, int]]) -> list[Place]:
        return [(b, o + i) for b, o, n in spans for i in range(n)]

    def bases(self, places: list[Place]) -> list[Place]:
        return list(dict.fromkeys(self.base(each) for each in places))

    def g(self, place: Place) -> int:
        return self.memory[place[0]][place[1]]

    def imaged(self, line: RefLine) -> bool:
        return line.kind in ("WB", "WT")

    def set_g(self, place: Place, value: int) -> None:
        """The model itself changes G: every snapshot and announcement learns of it."""
        self.memory[place[0]][place[1]] = value
        self.enter_snapshots(place, value)
        for kept in self.announced.values():
            if place in kept:
                kept[place] = value

    def enter_snapshots(self, place: Place, value: int) -> None:
        for buffer in self.buffers.values():
            if place in buffer["owned"]:
                buffer["owned"][place] = value

    # Reports.

    def report(
        self,
        kind: str,
        place: Place,
        expected: list[int],
        seen: list[int],
        by: str = "",
        missing: str = "",
    ) -> None:
        line = self.lines[self.base(place)]
        tag = self.named(self.base(place))
        buffer = self.buffers[tag]
        usual, other = self.blame(kind, self.base(place), tag, by)
        # A place before the buffer's first byte, or behind its last, in a line of it.
        for index, (backing, offset, length) in enumerate(buffer["spans"]):
            low = offset // self.size * self.size
            high = (offset + length + self.size - 1) // self.size * self.size
            if place[0] == backing and low <= place[1] < high:
                position = sum(n for _, _, n in buffer["spans"][:index]) + place[1] - offset
                break
        number = (position + buffer["spans"][0][1] % self.size) // self.size
        self.reports.append(
            (
                *(kind, missing or usual, tag, other),
                *(position, number, bytes(expected), bytes(seen)),
                *(by or self.operation, self.number, *line.last),
            )
        )

    def owner(self, place: Place, tags: list[int]) -> int | None:
        for tag in tags:
            if place in self.places(self.buffers[tag]["spans"]):
                return tag
        return None

    def named(self, base: Place) -> int:
        """The buffer whose call it is; for a DMA, the one that has its first byte in the line."""
        line = self.lines[base]
        if self.tag is not None:
            return self.tag
        first = min((each for each in self.bytes_of(base) if each in self.mine), default=base)
        found = self.owner(first, line.tags)
        return line.tags[0] if found is None else found

    def blame(self, kind: str, base: Place, tag: int, by: str) -> tuple[str, int]:
        """The call that was missing, and the buffer whose bytes suffered."""
        line = self.lines[base]
        suffered: list[Place] = []
        if by != "EVICTION":
            if kind in ("WRITE_TO_DIRTY_LINE", "CPU_BYTES_LOST") and not line.fresh:
                suffered = [
                    each
                    for each in self.bytes_of(base)
                    if self.g(each) != line.image[each[1]] and each[1] not in line.written
                ]
            if kind == "DEVICE_BYTES_LOST":
                suffered = [each for each in self.bytes_of(base) if each[1] in line.written]
        if suffered and not self.mine & set(suffered):
            owner = self.owner(suffered[0], [tag, *line.tags])
            return "NONE_LINE_IS_SHARED", tag if owner is None else owner
        if (
            kind in ("DEVICE_BYTES_LOST", "RELEASED_UNREAD")
            and line.last[0] == "SYNC_FOR_CPU"
            and line.tags == [tag]
        ):
            if self.buffers[tag]["direction"] == 2:
                return "NONE_DIRECTION_IS_OUT", tag
            return "SYNC_WITH_THE_BUFFERS_DIRECTION", tag
        return MISSING[kind], tag

    def report_line(
        self, kind: str, base: Place, *, device: bool, by: str = "", missing: str = ""
    ) -> None:
        """A whole line: the device's bytes or the CPU's are the ones that should have won."""
        line = self.lines[base]
        memory = [self.g(each) for each in self.bytes_of(base)]
        image = [line.image[each[1]] for each in self.bytes_of(base)]
        expected, seen = (image, memory) if device else (memory, image)
        both = [
            line.image[each[1]] if each[1] in line.written else self.g(each)
            for each in self.bytes_of(base)
        ]
        if both != seen:
            expected = both
        self.report(kind, base, expected, seen, by, missing)

    # Rules for one line.

    def observe(self, base: Place) -> None:
        line = self.lines[base]
        if not self.imaged(line):
            return
        changed = [each for each in self.bytes_of(base) if self.g(each) != line.known[each[1]]]
        if not changed:
            return
        if line.kind == "WB":
            if not line.cached:
                line.written.clear()
            line.dirty = line.cached = True
            line.fresh = False
        for each in changed:
            line.known[each[1]] = self.g(each)
            if line.kind == "WT":
                line.image[each[1]] = self.g(each)

    def drawn(self, line: RefLine) -> bool:
        key = struct.pack(
            "<8sQQQQ", b"eviction", self.seed, line.origin, self.number, line.number // 512
        )
        stream = hashlib.shake_128(key).digest(192)
        byte, bit = line.number % 512 // 8, line.number % 8
        return all(stream[64 * i + byte] >> bit & 1 for i in range(3))

    def chance(self, base: Place) -> None:
        line = self.lines[base]
        if self.mode != "SEEDED" or not self.imaged(line) or not self.drawn(line):
            return
        if not line.cached:
            line.cached = True
            line.written.clear()
            return
        if line.dirty:
            self.to_dram(base, "EVICTION")
        self.from_dram(base)
        line.cached = line.dirty = line.stale = line.fresh = False
        line.written.clear()

    def to_dram(self, base: Place, by: str) -> None:
        line = self.lines[base]
        if line.written:
            self.report_line("DEVICE_BYTES_LOST", base, device=True, by=by)
        for each in self.bytes_of(base):
            line.image[each[1]] = self.g(each)

    def from_dram(self, base: Place) -> None:
        line = self.lines[base]
        for each in self.bytes_of(base):
            if self.g(each) != line.image[each[1]]:
                self.set_g(each, line.image[each[1]])
            line.known[each[1]] = line.image[each[1]]

    def clean_line(self, base: Place) -> None:
        line = self.lines[base]
        if not self.imaged(line):
            return
        if line.dirty:
            self.to_dram(base, self.operation)
        line.dirty = line.stale = line.fresh = False
        line.written.clear()

    def invalidate_line(self, base: Place) -> None:
        line = self.lines[base]
        if not self.imaged(line):
            return
        if line.dirty and not line.fresh:
            self.report_line("CPU_BYTES_LOST", base, device=False)
        self.from_dram(base)
        line.dirty = line.stale = line.fresh = False
        line.cached = self.mode == "STRICT"
        line.written.clear()

    # Operations.

    def begin(self, operation: str, tag: int | None = None) -> None:
        self.number += 1
        self.operation, self.tag, self.mine = operation, tag, set()
        if tag is not None and tag not in self.buffers:
            raise Refused("BadBuffer")

    def note(self, bases: list[Place]) -> None:
        for base in bases:
            if base in self.lines:
                self.lines[base].last = (self.operation, self.number)

    def part(self, tag: int, offset: int, length: int) -> list[Place]:
        places = self.places(self.buffers[tag]["spans"])
        if length <= 0 or offset < 0 or offset + length > len(places):
            raise Refused("BadRange")
        self.mine = set(places[offset : offset + length])
        return places[offset : offset + length]

    def track(
        self,
        tag: int,
        direction: int,
        runs: list[tuple[tuple[str, int, int], str]],
        stored: bool,
    ) -> None:
        self.begin("TRACK")
        if self.mode == "OFF":
            raise Refused("BadConfiguration")
        if tag in self.buffers:
            raise Refused("BadBuffer")
        for (_, offset, _), _ in runs[1:]:
            if offset % self.size:
                raise Refused("BadRange")
        for (_, offset, length), _ in runs[:-1]:
            if (offset + length) % self.size:
                raise Refused("BadRange")
        kinds: dict[Place, str] = {}
        for span, kind in runs:
            if kind == "WP":
                raise Refused("BadType")
            for base in self.bases(self.places([span])):
                there = self.lines.get(base)
                if kinds.setdefault(base, kind) != kind or (there and there.kind != kind):
                    raise Refused("Busy")
        ordinal, self.ordinals = self.ordinals, self.ordinals + 1
        spans = [span for span, _ in runs]
        self.buffers[tag] = {"direction": direction, "spans": spans, "owned": {}}
        number = 0
        for span, kind in runs:
            for base in self.bases(self.places([span])):
                if base in self.lines:
                    self.observe(base)
                else:
                    self.lines[base] = self.new_line(base, kind, ordinal, number)
                self.lines[base].fresh &= not stored
                self.lines[base].tags.append(tag)
                self.note([base])
                number += 1

    def new_line(self, base: Place, kind: str, ordinal: int, number: int) -> RefLine:
        line = RefLine(kind, ordinal, number)
        if not self.imaged(line):
            return line
        line.cached = True
        for i, each in enumerate(self.bytes_of(base)):
            line.known[each[1]] = line.image[each[1]] = self.g(each)
            if kind == "WB":
                at = number * self.size + i
                key = struct.pack("<8sQQQQ", b"poison", self.seed, ordinal, 0, at // 4096)
                line.image[each[1]] = poison_page(key)[at % 4096]
        line.dirty = line.fresh = kind == "WB"
        return line

    def untrack(self, tag: int, how: str) -> None:
        self.begin("UNTRACK", tag)
        self.mine = set(self.places(self.buffers[tag]["spans"]))
        for span in self.buffers[tag]["spans"]:
            for base in self.bases(self.places([span])):
                self.untrack_line(base, tag, how)
        del self.buffers[tag]
        self.announced = {k: v for k, v in self.announced.items() if k[0] != tag}

    def untrack_line(self, base: Place, tag: int, how: str) -> None:
        if base not in self.lines:
            return
        line = self.lines[base]
        self.observe(base)
        own = [each for each in self.bytes_of(base) if each in self.mine]
        owned = self.buffers[tag]["owned"]
        stored = any(each in owned and self.g(each) != owned[each] for each in own)
        if how == "FORGOTTEN":
            pass
        elif line.dirty and stored and how == "SETTLED":
            again = "SYNC_FOR_DEVICE_AGAIN"
            self.report_line("RELEASED_DIRTY", base, device=False, missing=again)
        elif line.stale and any(self.g(each) != line.image[each[1]] for each in own):
            self.report_line("RELEASED_DIRTY", base, device=False)
        if how == "SETTLED" and any(each[1] in line.written for each in own):
            self.report_line("RELEASED_UNREAD", base, device=True)
        line.tags.remove(tag)
        self.note([base])
        if not line.tags:
            if self.imaged(line) and not line.dirty and how == "SETTLED":
                self.from_dram(base)
            del self.lines[base]

    def read(self, spans: list[tuple[str, int, int]], no_snoop: bool) -> bytes:
        self.begin("NO_SNOOP_READ" if no_snoop else "SNOOPED_READ")
        found = []
        self.look_first(spans, no_snoop)
        for place in self.places(spans):
            line = self.lines.get(self.base(place))
            if no_snoop and line and self.imaged(line):
                found.append(line.image[place[1]])
                older = found[-1] != self.g(place)
                line.stale |= line.dirty and not line.fresh and older
            else:
                found.append(self.g(place))
        self.note(self.bases(self.places(spans)))
        return bytes(found)

    def write(self, spans: list[tuple[str, int, int]], data: bytes, no_snoop: bool) -> None:
        self.begin("NO_SNOOP_WRITE" if no_snoop else "SNOOPED_WRITE")
        self.look_first(spans, no_snoop)
        places = self.places(spans)
        for base in self.bases(places):
            line = self.lines.get(base)
            if no_snoop and line and line.dirty:
                self.report_line("WRITE_TO_DIRTY_LINE", base, device=False)
        for place, value in zip(places, data, strict=True):
            line = self.lines.get(self.base(place))
            if line is None or not self.imaged(line):
                self.set_g(place, value)
            elif no_snoop:
                line.image[place[1]] = value
                line.written.add(place[1])
                if not line.cached:
                    line.known[place[1]] = value
                    self.set_g(place, value)
            else:
                line.image[place[1]] = line.known[place[1]] = value
                line.written.discard(place[1])
                self.set_g(place, value)
        self.note(self.bases(places))

    def look_first(self, spans: list[tuple[str, int, int]], no_snoop: bool) -> None:
        bases = self.bases(self.places(spans))
        self.mine = set(self.places(spans))
        if no_snoop and self.mode == "STRICT" and any(base not in self.lines for base in bases):
            raise Refused("NotTracked")
        for base in bases:
            if base in self.lines:
                self.observe(base)
                self.chance(base)

    def maintain(self, operation: str, tag: int, offset: int, length: int) -> None:
        self.begin(operation, tag)
        places = self.part(tag, offset, length)
        for base in self.bases(places):
            self.observe(base)
            self.chance(base)
            if operation != "INVALIDATE":
                self.clean_line(base)
            if operation != "CLEAN":
                self.invalidate_line(base)
            self.note([base])
        for each in places if operation != "CLEAN" else []:
            self.buffers[tag]["owned"].pop(each, None)

    def check_direction(self, tag: int, place: Place, direction: int) -> None:
        if (
            direction
            and direction | self.buffers[tag]["direction"] != (self.buffers[tag]["direction"])
        ):
            self.report("WRONG_DIRECTION", place, [], [])

    def sync_for_device(self, tag: int, offset: int, length: int, direction: int) -> None:
        self.begin("SYNC_FOR_DEVICE", tag)
        places = self.part(tag, offset, length)
        self.check_direction(tag, places[0], direction)
        for base in self.bases(places):
            self.observe(base)
            self.chance(base)
            self.clean_line(base)
        for place in places:
            self.buffers[tag]["owned"][place] = self.g(place)
        self.note(self.bases(places))

    def sync_for_cpu(self, tag: int, offset: int, length: int, direction: int) -> None:
        self.begin("SYNC_FOR_CPU", tag)
        places = self.part(tag, offset, length)
        self.check_direction(tag, places[0], direction)
        self.compare(tag, places)
        for base in self.bases(places):
            self.observe(base)
            self.chance(base)
            if (direction or self.buffers[tag]["direction"]) != 2:
                self.invalidate_line(base)
            self.note([base])

    def complete(self, tag: int, offset: int, length: int) -> None:
        self.begin("COMPLETE", tag)
        self.compare(tag, self.part(tag, offset, length))

    def compare(self, tag: int, places: list[Place]) -> None:
        owned = self.buffers[tag]["owned"]
        for base in self.bases(places):
            mine = [each for each in places if self.base(each) == base and each in owned]
            run: list[Place] = []
            for each in mine:
                if self.g(each) == owned[each]:
                    if run:
                        break
                elif not run or each[1] == run[-1][1] + 1:
                    run.append(each)
                else:
                    break
            if run:
                kept, found = [owned[each] for each in run], [self.g(each) for each in run]
                self.report("STORED_WHILE_DEVICE_OWNS", run[0], kept, found)
        for each in places:
            owned.pop(each, None)

    def announce_begin(self, tag: int, offset: int, length: int) -> None:
        self.begin("ANNOUNCE_BEGIN", tag)
        places = self.part(tag, offset, length)
        if (tag, offset, length) in self.announced or len(self.announced) >= 32:
            raise Refused("BadAnnouncement")
        for base in self.bases(places):
            self.observe(base)
        self.announced[tag, offset, length] = {each: self.g(each) for each in places}
        self.note(self.bases(places))

    def announce_end(self, tag: int, offset: int, length: int) -> None:
        self.begin("ANNOUNCE_END", tag)
        places = self.part(tag, offset, length)
        if (tag, offset, length) not in self.announced:
            raise Refused("BadAnnouncement")
        kept = self.announced.pop((tag, offset, length))
        for each in places:
            if self.g(each) != kept[each]:
                line = self.lines[self.base(each)]
                if self.imaged(line):
                    line.image[each[1]] = line.known[each[1]] = self.g(each)
                    line.written.discard(each[1])
                self.enter_snapshots(each, self.g(each))
        for base in self.bases(places):
            self.observe(base)
        self.note(self.bases(places))


_pages: dict[bytes, bytes] = {}


def poison_page(key: bytes) -> bytes:
    """Return the 4096 bytes of poison that one key gives."""
    if key not in _pages:
        if len(_pages) > 256:
            _pages.clear()
        _pages[key] = hashlib.shake_128(key).digest(4096)
    return _pages[key]
