# SPDX-License-Identifier: Apache-2.0
"""What each operation does to lines: one method for each rule, so that a fault can break one alone.

A rule works on a ``Window``: some lines, and the operation's one copy of their memory (G). D, B and
W are the segment's ``image``, ``known`` and ``written``. Positions are bytes from the segment's
start; lines are counted in the segment.
"""

from __future__ import annotations

from collections.abc import Iterable

from dma_rehearsal.device.cache_model import seeded
from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import (
    CACHED,
    DIRTY,
    FRESH,
    STALE,
    Segment,
    Window,
    fill,
    lines_with,
    marking,
)
from dma_rehearsal.device.cache_model.masks import blended, both, differing, of_bytes, runs, without
from dma_rehearsal.device.cache_model.names import GuestMemory, Mode, Operation
from dma_rehearsal.device.cache_model.reporting import Reporting
from dma_rehearsal.device.cache_model.reports import MissingCall, ReportKind
from dma_rehearsal.device.cache_model.snapshots import Copies, Held
from dma_rehearsal.device.layout import MemoryType

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
_CACHED = lines_with(CACHED)
_WAS_READ = marking(keep=_ANY, add=STALE)
_STORED_TO = marking(keep=CACHED | STALE, add=DIRTY)


class Rules(Reporting):
    """The rules of one model, and what its operations share."""

    def __init__(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> None:
        super().__init__(line)
        self._memory, self.mode, self.seed = memory, mode, seed
        self._announced: dict[tuple[int, int, int], Copies] = {}
        self._held = Held()

    # The CPU's stores.

    def observe(self, window: Window) -> None:
        """Find what the CPU has stored since the model looked last."""
        segment = window.segment
        if not segment.imaged or segment.known.startswith(window.memory, window.start):
            return
        for part in window.parts():
            if segment.known.startswith(part.memory, part.start):
                continue
            changed = differing(segment.known[part.start : part.end], part.memory)
            if segment.type is MemoryType.WT:
                self.stored_through(part, changed)
            else:
                self.stored_back(part, part.lines_of(part.start, changed))

    def stored_through(self, window: Window, changed: bytes) -> None:
        """WT: the changed bytes, and only those, go to D; B follows G."""
        segment, start, end = window.segment, window.start, window.end
        segment.image[start:end] = blended(segment.image[start:end], window.memory, changed)
        segment.known[start:end] = window.memory

    def stored_back(self, window: Window, lines: bytes) -> None:
        """WB: the lines are dirty; a store to one that is not cached fills it first."""
        self.fill(window, both(lines, window.lines_with(_NOT_CACHED)))
        window.remark(_STORED_TO, lines)
        window.segment.known[window.start : window.end] = window.memory

    # Chance.

    def draw(self, window: Window) -> None:
        """Seeded: evict or fill the lines that chance picks."""
        segment = window.segment
        if self.mode is not Mode.SEEDED or not segment.imaged:
            return
        first = segment.origin_line + window.first
        drawn = seeded.draws(self.seed, segment.origin, self.number, first, window.lines)
        if 0xFF in drawn:
            cached = both(drawn, window.lines_with(_CACHED))
            self.evict(window, cached)
            self.fill(window, without(drawn, cached))

    def evict(self, window: Window, lines: bytes) -> None:
        """A dirty line is written back, then G takes D; the line is not cached."""
        self.write_back(window, both(lines, window.lines_with(_DIRTY)), Operation.EVICTION)
        self.take_image(window, lines)
        window.remark(_GONE, lines)
        self.forget_written(window, lines)

    def fill(self, window: Window, lines: bytes) -> None:
        """The lines are cached, with what DRAM holds."""
        window.remark(_FILLED, lines)
        self.forget_written(window, lines)

    # Maintenance.

    def clean(self, window: Window) -> None:
        """Dirty lines go to D whole; marks off; what is cached stays cached."""
        if not window.segment.imaged:
            return
        self.write_back(window, window.lines_with(_DIRTY), self._operation)
        window.remark(_MARKS_OFF)
        self.forget_written(window)

    def write_back(self, window: Window, lines: bytes, by: Operation) -> None:
        """D takes G, whole lines; what the device wrote there without a snoop is lost."""
        if 0xFF not in lines:
            return
        segment, start, end = window.segment, window.start, window.end
        lost = both(lines, window.written(start, end))
        self.report_image(window, lost, ReportKind.DEVICE_BYTES_LOST, by)
        whole = of_bytes(lines, self.line)
        segment.image[start:end] = blended(segment.image[start:end], window.memory, whole)

    def invalidate(self, window: Window) -> None:
        """G and B take D; marks off. Seeded: the lines are not cached; strict: they are again."""
        segment = window.segment
        if not segment.imaged:
            return
        self.report_memory(window, window.lines_with(_STORED), ReportKind.CPU_BYTES_LOST)
        self.take_image(window)
        window.remark(_CACHED_ONLY if self.mode is Mode.STRICT else _GONE)
        self.forget_written(window)

    def take_image(self, window: Window, lines: bytes | None = None) -> None:
        """G takes D where they differ, and nowhere else: the CPU may be storing. B = D.

        ``lines``: the mask of those that do; None: all.
        """
        segment = window.segment
        if segment.image.startswith(window.memory, window.start):
            return  # B is the same: an observation comes first
        for part in window.parts():
            start, end = part.start, part.end
            if segment.image.startswith(part.memory, start):
                continue
            image = bytes(memoryview(segment.image)[start:end])
            mask = differing(part.memory, image)
            if lines is not None:
                first = part.first - window.first
                mask = both(mask, of_bytes(lines[first : first + part.lines], self.line))
            if 0xFF in mask:
                self.change(window, start, image, mask)
                segment.known[start:end] = blended(segment.known[start:end], image, mask)

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
        stored = window.lines_with(_STORED)
        if 0xFF in stored:
            image = window.segment.image[start:end]
            older = window.lines_of(start, differing(image, window.bytes_at(start, end)))
            window.remark(_WAS_READ, both(older, stored))

    def write_image(self, window: Window, start: int, data: bytes) -> None:
        """Enter a no-snoop write: into D and W; a line that is not cached has it in G and B too."""
        segment, end = window.segment, start + len(data)
        if not segment.imaged:
            self.change(window, start, data)
            return
        self.report_memory(window, window.lines_with(_DIRTY), ReportKind.WRITE_TO_DIRTY_LINE)
        segment.image[start:end] = data
        self.mark_written(segment, start, end)
        uncached = window.lines_with(_NOT_CACHED)
        if 0xFF in uncached:
            first = start - window.start
            mask = of_bytes(uncached, self.line)[first : first + len(data)]
            self.change(window, start, data, mask)
            segment.known[start:end] = blended(segment.known[start:end], data, mask)

    def write_through(self, window: Window, start: int, data: bytes) -> None:
        """Enter a snooped write: into G, and what ``enter`` says."""
        self.change(window, start, data)
        self.enter(window.segment, start, data)

    def enter(self, segment: Segment, start: int, data: bytes, mask: bytes | None = None) -> None:
        """What a snooped write or a foreign writer put into G goes to D and B, and leaves W.

        ``mask``: where it is set; None: all of ``data``.
        """
        if not segment.imaged:
            return
        place, end = slice(start, start + len(data)), start + len(data)
        if mask is None:
            segment.image[place] = segment.known[place] = data
        else:
            segment.image[place] = blended(segment.image[place], data, mask)
            segment.known[place] = blended(segment.known[place], data, mask)
        if segment.written.find(b"\xff", start, end) < 0:
            return
        if mask is None:
            fill(segment.written, start, end, 0x00)
        else:
            segment.written[place] = without(bytes(segment.written[place]), mask)

    def mark_written(self, segment: Segment, start: int, end: int) -> None:
        """Enter a no-snoop write into W."""
        fill(segment.written, start, end, 0xFF)

    def forget_written(self, window: Window, lines: bytes | None = None) -> None:
        """Take whole lines out of W: those in the mask; None: all."""
        written, start, end = window.segment.written, window.start, window.end
        if written.find(b"\xff", start, end) < 0:
            return
        if lines is None:
            fill(written, start, end, 0x00)
        elif 0xFF in lines:
            written[start:end] = without(bytes(written[start:end]), of_bytes(lines, self.line))

    def change(self, window: Window, start: int, data: bytes, mask: bytes | None = None) -> None:
        """Write to G, where ``mask`` is set. Snapshots and announcements learn of it.

        It is no store of the CPU.
        """
        segment = window.segment
        place = segment.start + start
        if mask is None:
            self._memory.write(segment.backing, place, data)
        else:
            self._memory.write_where(segment.backing, place, data, mask)
        self.enter_snapshots(segment, start, data, mask)
        for copies in self._announced.values():
            copies.patch(segment.backing, place, data, mask)
        window.replace(start, data, mask)

    # Ownership.

    def enter_snapshots(
        self, segment: Segment, start: int, data: bytes, mask: bytes | None = None
    ) -> None:
        """A change of G that is not the CPU's enters the snapshots of the line's buffers."""
        for buffer in segment.buffers:
            buffer.owned.patch(segment.backing, segment.start + start, data, mask)

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
        """Report the lines that the CPU stored to while the device owned them; ownership ends."""
        segment = window.segment
        found = window.bytes_at(start, end)
        kept = buffer.owned.expected(segment.backing, segment.start + start, found)
        if kept != found:
            self.report_stores(buffer, window, start, kept, found)
        self.take_back(buffer, window)

    def report_stores(
        self, buffer: Buffer, window: Window, start: int, kept: bytes, found: bytes
    ) -> None:
        """Report the lines in which the CPU changed what was kept, each with the first such bytes.

        Both begin at position ``start``.
        """
        mask = differing(kept, found)
        lines = window.lines_of(start, mask)
        for first, last in self.reported(window, lines):
            for low, high in self.histories(window.segment, first, last):
                if self.reports.full:
                    self.reports.lost += 1
                    break
                begin, end = max(low * self.line - start, 0), (low + 1) * self.line - start
                changed = next(runs(mask[begin:end]))
                part = slice(begin + changed[0], begin + changed[1])
                place = (low, high, start + part.start)
                kind = ReportKind.STORED_WHILE_DEVICE_OWNS
                self.report(window, place, kind, buffer, None, kept[part], found[part])

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
        self.report_memory(window, owned, ReportKind.RELEASED_DIRTY, again)
        self.report_memory(window, without(read, owned), ReportKind.RELEASED_DIRTY)
        written = window.written(window.low, window.high)
        self.report_image(window, written, ReportKind.RELEASED_UNREAD)

    def still_owned(self, buffer: Buffer, window: Window) -> bytes:
        """Return the dirty lines in which the CPU stored to bytes that the device owns: a mask."""
        segment, low = window.segment, window.low
        found = window.bytes_at(low, window.high)
        kept = buffer.owned.expected(segment.backing, segment.start + low, found)
        if kept == found:
            return bytes(window.lines)
        stored = window.lines_of(low, differing(kept, found))
        return both(stored, window.lines_with(_DIRTY))

    def still_stale(self, window: Window) -> bytes:
        """Return the lines of which the device read older bytes than the CPU has stored: a mask.

        Of the buffer's own bytes: those of a neighbour in the line are the neighbour's.
        """
        read = window.lines_with(_READ_STALE)
        if 0xFF not in read:
            return read
        low, high = window.low, window.high
        image = window.segment.image[low:high]
        older = window.lines_of(low, differing(image, window.bytes_at(low, high)))
        return both(older, read)

    def settle(self, window: Window) -> None:
        """The last buffer is gone: a dirty line keeps G, any other takes D into G."""
        if window.segment.imaged:
            self.take_image(window, window.lines_with(_NOT_DIRTY))
