"""What each operation does to lines: one method for each rule, so that a fault can break one alone.

A rule works on a ``Window``: some lines, and the operation's one copy of their memory (G). D, B and
W are the segment's ``image``, ``known`` and ``written``. Positions are bytes from the segment's
start; lines are counted in the segment.
"""

from __future__ import annotations

from collections.abc import Iterable

from device.layout import MemoryType

from . import seeded
from .buffers import Buffer
from .copies import Copies
from .differences import changed_lines, joined, runs
from .lines import CACHED, DIRTY, FRESH, STALE, Segment, Window, fill, lines_with, marking
from .names import GuestMemory, Mode, Operation
from .reporting import Reporting, lines_written
from .reports import MissingCall, ReportKind

_ANY = CACHED | DIRTY | STALE | FRESH
_DIRTY = lines_with(DIRTY)
_STORED = lines_with(DIRTY, without=FRESH)
_READ_STALE = lines_with(STALE)
_NOT_DIRTY = lines_with(0, without=DIRTY)
_NOT_CACHED = lines_with(0, without=CACHED)
_MARKS_OFF = marking(keep=CACHED, add=0)
_GONE = marking(keep=0, add=0)
_CACHED_ONLY = marking(keep=0, add=CACHED)
_FILLED = marking(keep=_ANY, add=CACHED)
_STORED_TO = marking(keep=CACHED | STALE, add=DIRTY)


class Rules(Reporting):
    """The rules of one model, and what its operations share."""

    def __init__(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> None:
        super().__init__(line)
        self._memory, self.mode, self.seed = memory, mode, seed
        self._announced: dict[tuple[int, int, int], Copies] = {}

    # The CPU's stores.

    def observe(self, window: Window) -> None:
        """Find what the CPU has stored since the model looked last."""
        segment = window.segment
        if not segment.imaged or segment.known.startswith(window.memory, window.start):
            return
        changed = changed_lines(segment.known, window.start, window.memory, self.line)
        for first, last in changed:
            if segment.type is MemoryType.WT:
                self.stored_through(window, window.first + first, window.first + last)
            else:
                self.stored_back(window, window.first + first, window.first + last)

    def stored_through(self, window: Window, first: int, last: int) -> None:
        """WT: the changed bytes, and only those, go to D; B follows G."""
        segment, start, end = window.segment, first * self.line, last * self.line
        new = window.bytes_at(start, end)
        for low, high in runs(segment.known[start:end], new):
            segment.image[start + low : start + high] = new[low:high]
        segment.known[start:end] = new

    def stored_back(self, window: Window, first: int, last: int) -> None:
        """WB: the lines are dirty; a store to one that is not cached fills it first."""
        segment, start, end = window.segment, first * self.line, last * self.line
        for match in _NOT_CACHED.finditer(bytes(segment.marks[first:last])):
            self.fill(window, first + match.start(), first + match.end())
        window.remark(_STORED_TO, (first, last))
        segment.known[start:end] = window.bytes_at(start, end)

    # Chance.

    def draw(self, window: Window) -> None:
        """Seeded: evict or fill the lines that chance picks."""
        segment = window.segment
        if self.mode is not Mode.SEEDED or not segment.imaged:
            return
        first = segment.origin_line + window.first
        drawn = seeded.draws(self.seed, segment.origin, self.number, first, window.lines)
        for each in drawn:
            index = each - segment.origin_line
            if segment.marks[index] & CACHED:
                self.evict(window, index)
            else:
                self.fill(window, index, index + 1)

    def evict(self, window: Window, index: int) -> None:
        """A dirty line is written back, then G takes D; the line is not cached."""
        marks = window.segment.marks[index]
        if marks & DIRTY:
            self.write_back(window, index, index + 1, Operation.EVICTION)
        self.take_image(window, index, index + 1)
        window.remark(_GONE, (index, index + 1))
        self.forget_written(window, index, index + 1)

    def fill(self, window: Window, first: int, last: int) -> None:
        """The lines are cached, with what DRAM holds."""
        window.remark(_FILLED, (first, last))
        self.forget_written(window, first, last)

    # Maintenance.

    def clean(self, window: Window) -> None:
        """Dirty lines go to D whole; marks off; what is cached stays cached."""
        if not window.segment.imaged:
            return
        for first, last in window.found(_DIRTY):
            self.write_back(window, first, last, self._operation)
        window.remark(_MARKS_OFF)
        self.forget_written(window, window.first, window.first + window.lines)

    def write_back(self, window: Window, first: int, last: int, by: Operation) -> None:
        """D takes G, whole lines; what the device wrote there without a snoop is lost."""
        segment, start, end = window.segment, first * self.line, last * self.line
        written = lines_written(segment, start, end)
        self.report_image(window, written, ReportKind.DEVICE_BYTES_LOST, by)
        segment.image[start:end] = window.bytes_at(start, end)

    def invalidate(self, window: Window) -> None:
        """G and B take D; marks off. Seeded: the lines are not cached; strict: they are again."""
        segment = window.segment
        if not segment.imaged:
            return
        self.report_memory(window, window.found(_STORED), ReportKind.CPU_BYTES_LOST)
        self.take_image(window, window.first, window.first + window.lines)
        window.remark(_CACHED_ONLY if self.mode is Mode.STRICT else _GONE)
        self.forget_written(window, window.first, window.first + window.lines)

    def take_image(self, window: Window, first: int, last: int) -> None:
        """G takes D where they differ, and nowhere else: the CPU may be storing. B = D."""
        segment, start, end = window.segment, first * self.line, last * self.line
        if segment.image.startswith(window.bytes_at(start, end), start):
            return  # B is the same: an observation comes first
        image = bytes(memoryview(segment.image)[start:end])
        for low, high in runs(window.bytes_at(start, end), image):
            self._store(segment, start + low, image[low:high])
        window.replace(start, image)
        segment.known[start:end] = image

    # Accesses of the device.

    def read_image(self, window: Window, start: int, end: int) -> bytes:
        """Return what a no-snoop read sees: D, or G where there is no image."""
        if not window.segment.imaged:
            return window.bytes_at(start, end)
        memory = window.bytes_at(start, end)
        if window.segment.image.startswith(memory, start):
            return memory  # one comparison costs less than one more copy
        self.read_stale(window, start, end)
        return bytes(memoryview(window.segment.image)[start:end])

    def read_stale(self, window: Window, start: int, end: int) -> None:
        """Mark the lines of which the device got older bytes than the CPU has stored."""
        segment = window.segment
        for first, last in window.found(_STORED):
            for index in range(first, last):
                low, high = max(start, index * self.line), min(end, (index + 1) * self.line)
                if not segment.image.startswith(window.bytes_at(low, high), low):
                    segment.marks[index] |= STALE

    def write_image(self, window: Window, start: int, data: bytes) -> None:
        """Enter a no-snoop write: into D and W; a line that is not cached has it in G and B too."""
        segment, end = window.segment, start + len(data)
        if not segment.imaged:
            self.change(window, start, data)
            return
        self.report_memory(window, window.found(_DIRTY), ReportKind.WRITE_TO_DIRTY_LINE)
        segment.image[start:end] = data
        self.mark_written(segment, start, end)
        for first, last in window.found(_NOT_CACHED):
            low, high = max(start, first * self.line), min(end, last * self.line)
            self.change(window, low, data[low - start : high - start])
            segment.known[low:high] = data[low - start : high - start]

    def write_through(self, window: Window, start: int, data: bytes) -> None:
        """Enter a snooped write: into G, and what ``enter`` says."""
        self.change(window, start, data)
        self.enter(window.segment, start, data)

    def enter(self, segment: Segment, start: int, data: bytes) -> None:
        """What a snooped write or a foreign writer put into G goes to D and B, and leaves W."""
        if segment.imaged:
            end = start + len(data)
            segment.image[start:end] = data
            segment.known[start:end] = data
            if segment.written.find(b"\xff", start, end) >= 0:
                fill(segment.written, start, end, 0x00)

    def mark_written(self, segment: Segment, start: int, end: int) -> None:
        """Enter a no-snoop write into W."""
        fill(segment.written, start, end, 0xFF)

    def forget_written(self, window: Window, first: int, last: int) -> None:
        """Take whole lines out of W."""
        written, start, end = window.segment.written, first * self.line, last * self.line
        if written.find(b"\xff", start, end) >= 0:
            fill(written, start, end, 0x00)

    def change(self, window: Window, start: int, data: bytes) -> None:
        """Write to G. Snapshots and announcements learn of it: it is no store of the CPU."""
        self._store(window.segment, start, data)
        window.replace(start, data)

    def _store(self, segment: Segment, start: int, data: bytes) -> None:
        self._memory.write(segment.backing, segment.start + start, data)
        self.enter_snapshots(segment, start, data)
        for copies in self._announced.values():
            copies.patch(segment.backing, segment.start + start, data)

    # Ownership.

    def enter_snapshots(self, segment: Segment, start: int, data: bytes) -> None:
        """A change of G that is not the CPU's enters the snapshots of the line's buffers."""
        for buffer in segment.buffers:
            if len(buffer.owned):
                buffer.owned.patch(segment.backing, segment.start + start, data)

    def hand_over(self, buffer: Buffer, windows: Iterable[tuple[Window, int, int]]) -> None:
        """The device owns the bytes [start, end) of each window after its maintenance."""
        for window, start, end in windows:
            self.observe(window)
            self.draw(window)
            self.clean(window)
            self.take_snapshot(buffer, window.segment, start, window.bytes_at(start, end))

    def take_snapshot(self, buffer: Buffer, segment: Segment, start: int, data: bytes) -> None:
        """Keep what the device got, to find stores of the CPU later."""
        buffer.owned.put(segment.backing, segment.start + start, data)

    def compare_snapshot(self, buffer: Buffer, window: Window, start: int, end: int) -> None:
        """Report each line that the CPU stored to while the device owned it; ownership ends."""
        segment, seen_line = window.segment, -1
        place = segment.start + start
        for offset, kept, found in buffer.owned.differences(
            segment.backing, place, window.bytes_at(start, end)
        ):
            first, last = offset - segment.start, offset - segment.start + len(kept)
            while first < last:
                index = first // self.line
                upto = min(last, (index + 1) * self.line)
                if index != seen_line:
                    low = first - (offset - segment.start)
                    part = slice(low, low + upto - first)
                    kind, lines = ReportKind.STORED_WHILE_DEVICE_OWNS, (index, index + 1, first)
                    self.report(window, lines, kind, buffer, None, kept[part], found[part])
                    seen_line = index
                first = upto
        self.take_back(buffer, window)

    def take_back(self, buffer: Buffer, window: Window) -> None:
        """The CPU owns the bytes again, and may store to them."""
        segment, low, high = window.segment, window.low, window.high
        buffer.owned.drop(segment.backing, segment.start + low, high - low)

    # The end of a buffer.

    def report_release(self, buffer: Buffer, window: Window) -> None:
        """Report what a missing sync left behind in the bytes of a buffer that is let go.

        Of dirty lines, only those that the device still owns, or of which it has read older bytes:
        all others are the CPU's own.
        """
        segment = window.segment
        if not segment.imaged:
            return
        owned, read = self.still_owned(buffer, window), self.still_stale(window)
        again = MissingCall.SYNC_FOR_DEVICE_AGAIN
        self.report_memory(window, joined(sorted(owned)), ReportKind.RELEASED_DIRTY, again)
        self.report_memory(window, joined(sorted(read - owned)), ReportKind.RELEASED_DIRTY)
        written = lines_written(segment, window.low, window.high)
        self.report_image(window, written, ReportKind.RELEASED_UNREAD)

    def still_owned(self, buffer: Buffer, window: Window) -> set[int]:
        """Return the dirty lines in which the CPU stored to bytes that the device owns."""
        segment = window.segment
        found: set[int] = set()
        low, high = window.low, window.high
        for offset, kept, _ in buffer.owned.differences(
            segment.backing, segment.start + low, window.bytes_at(low, high)
        ):
            first = (offset - segment.start) // self.line
            last = (offset - segment.start + len(kept) - 1) // self.line
            found.update(each for each in range(first, last + 1) if segment.marks[each] & DIRTY)
        return found

    def still_stale(self, window: Window) -> set[int]:
        """Return the lines of which the device read older bytes than the CPU has stored.

        Of the buffer's own bytes: those of a neighbour in the line are the neighbour's.
        """
        segment = window.segment
        found: set[int] = set()
        for first, last in window.found(_READ_STALE):
            for index in range(first, last):
                low = max(window.low, index * self.line)
                high = min(window.high, (index + 1) * self.line)
                if not segment.image.startswith(window.bytes_at(low, high), low):
                    found.add(index)
        return found

    def settle(self, window: Window) -> None:
        """The last buffer is gone: a dirty line keeps G, any other takes D into G."""
        if window.segment.imaged:
            for first, last in list(window.found(_NOT_DIRTY)):
                self.take_image(window, first, last)
