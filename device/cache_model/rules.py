# SPDX-License-Identifier: Apache-2.0
"""The rules of the cache model: one method for each, so that a fault can break one alone.

A rule works on a ``Window``: some lines, and the operation's one copy of their memory (G). D, B and
W are the extent's ``image``, ``known`` and ``written``. Positions are bytes from the extent's
start; lines are counted in the extent.
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
    Extent,
    Window,
    fill,
    lines_with,
    marking,
)
from dma_rehearsal.device.cache_model.masks import blended, both, differing, of_bytes, runs, without
from dma_rehearsal.device.cache_model.names import GuestMemory, Mode, Operation, Release
from dma_rehearsal.device.cache_model.reporting import Reporter
from dma_rehearsal.device.cache_model.reports import MissingCall, ReportKind
from dma_rehearsal.device.cache_model.snapshots import Snapshots
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


class Rules:
    """The rules of one model.

    ``announced`` has the copies of the announcements that are open, by tag, offset and length.
    """

    def __init__(
        self, memory: GuestMemory, mode: Mode, line: int, seed: int, reporter: Reporter
    ) -> None:
        self._memory, self._mode, self.line, self._seed = memory, mode, line, seed
        self.reporter = reporter
        self.announced: dict[tuple[int, int, int], Snapshots] = {}

    # The CPU's stores.

    def observe(self, window: Window) -> None:
        """Find what the CPU has stored since the model looked last."""
        extent = window.extent
        if not extent.imaged or extent.known.startswith(window.memory, window.start):
            return
        for part in window.parts():
            if extent.known.startswith(part.memory, part.start):
                continue
            changed = differing(extent.known[part.start : part.end], part.memory)
            if extent.type is MemoryType.WT:
                self.stored_through(part, changed)
            else:
                self.stored_back(part, part.lines_of(part.start, changed))

    def stored_through(self, window: Window, changed: bytes) -> None:
        """WT: the changed bytes, and only those, go to D; B follows G."""
        extent, start, end = window.extent, window.start, window.end
        extent.image[start:end] = blended(extent.image[start:end], window.memory, changed)
        extent.known[start:end] = window.memory

    def stored_back(self, window: Window, lines: bytes) -> None:
        """WB: the lines are dirty; a store to one that is not cached fills it first."""
        self.fill(window, both(lines, window.lines_with(_NOT_CACHED)))
        window.remark(_STORED_TO, lines)
        window.extent.known[window.start : window.end] = window.memory

    # Chance.

    def draw(self, window: Window) -> None:
        """Seeded: evict or fill the lines that chance picks."""
        extent = window.extent
        if self._mode is not Mode.SEEDED or not extent.imaged:
            return
        first = extent.origin_line + window.first
        drawn = seeded.draws(self._seed, extent.origin, self.reporter.number, first, window.lines)
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
        if not window.extent.imaged:
            return
        self.write_back(window, window.lines_with(_DIRTY), self.reporter.operation)
        window.remark(_MARKS_OFF)
        self.forget_written(window)

    def write_back(self, window: Window, lines: bytes, by: Operation) -> None:
        """D takes G, whole lines; what the device wrote there without a snoop is lost."""
        if 0xFF not in lines:
            return
        extent, start, end = window.extent, window.start, window.end
        lost = both(lines, window.written(start, end))
        self.reporter.report_image(window, lost, ReportKind.DEVICE_BYTES_LOST, by)
        whole = of_bytes(lines, self.line)
        extent.image[start:end] = blended(extent.image[start:end], window.memory, whole)

    def invalidate(self, window: Window) -> None:
        """G and B take D; marks off. Seeded: the lines are not cached; strict: they are again."""
        extent = window.extent
        if not extent.imaged:
            return
        self.reporter.report_memory(window, window.lines_with(_STORED), ReportKind.CPU_BYTES_LOST)
        self.take_image(window)
        window.remark(_CACHED_ONLY if self._mode is Mode.STRICT else _GONE)
        self.forget_written(window)

    def take_image(self, window: Window, lines: bytes | None = None) -> None:
        """G takes D where they differ, and nowhere else: the CPU may be storing. B = D.

        ``lines``: the mask of those that do; None: all.
        """
        extent = window.extent
        if extent.image.startswith(window.memory, window.start):
            return  # B is the same: an observation comes first
        for part in window.parts():
            start, end = part.start, part.end
            if extent.image.startswith(part.memory, start):
                continue
            image = bytes(memoryview(extent.image)[start:end])
            mask = differing(part.memory, image)
            if lines is not None:
                first = part.first - window.first
                mask = both(mask, of_bytes(lines[first : first + part.lines], self.line))
            if 0xFF in mask:
                self.change(window, start, image, mask)
                extent.known[start:end] = blended(extent.known[start:end], image, mask)

    # Accesses of the device.

    def read_image(self, window: Window, start: int, end: int) -> bytes:
        """Return what a no-snoop read sees: D, or G where there is no image."""
        if not window.extent.imaged:
            return window.bytes_at(start, end)
        memory = window.bytes_at(start, end)
        if window.extent.image.startswith(memory, start):
            return memory  # one comparison costs less than one more copy
        self.read_stale(window, start, end)
        return bytes(memoryview(window.extent.image)[start:end])

    def read_stale(self, window: Window, start: int, end: int) -> None:
        """Mark the lines of which the device got older bytes than the CPU has stored."""
        stored = window.lines_with(_STORED)
        if 0xFF in stored:
            image = window.extent.image[start:end]
            older = window.lines_of(start, differing(image, window.bytes_at(start, end)))
            window.remark(_WAS_READ, both(older, stored))

    def write_image(self, window: Window, start: int, data: bytes) -> None:
        """Enter a no-snoop write: into D and W; a line that is not cached has it in G and B too."""
        extent, end = window.extent, start + len(data)
        if not extent.imaged:
            self.change(window, start, data)
            return
        self.reporter.report_memory(
            window, window.lines_with(_DIRTY), ReportKind.WRITE_TO_DIRTY_LINE
        )
        extent.image[start:end] = data
        self.mark_written(extent, start, end)
        uncached = window.lines_with(_NOT_CACHED)
        if 0xFF in uncached:
            first = start - window.start
            mask = of_bytes(uncached, self.line)[first : first + len(data)]
            self.change(window, start, data, mask)
            extent.known[start:end] = blended(extent.known[start:end], data, mask)

    def write_through(self, window: Window, start: int, data: bytes) -> None:
        """Enter a snooped write: into G, and what ``enter`` says."""
        self.change(window, start, data)
        self.enter(window.extent, start, data)

    def enter(self, extent: Extent, start: int, data: bytes, mask: bytes | None = None) -> None:
        """Enter what a snooped write or a foreign writer put into G: into D and B, out of W.

        ``mask``: where it is set; None: all of ``data``.
        """
        if not extent.imaged:
            return
        place, end = slice(start, start + len(data)), start + len(data)
        if mask is None:
            extent.image[place] = extent.known[place] = data
        else:
            extent.image[place] = blended(extent.image[place], data, mask)
            extent.known[place] = blended(extent.known[place], data, mask)
        if extent.written.find(b"\xff", start, end) < 0:
            return
        if mask is None:
            fill(extent.written, start, end, 0x00)
        else:
            extent.written[place] = without(bytes(extent.written[place]), mask)

    def mark_written(self, extent: Extent, start: int, end: int) -> None:
        """Enter a no-snoop write into W."""
        fill(extent.written, start, end, 0xFF)

    def forget_written(self, window: Window, lines: bytes | None = None) -> None:
        """Take whole lines out of W: those in the mask; None: all."""
        written, start, end = window.extent.written, window.start, window.end
        if written.find(b"\xff", start, end) < 0:
            return
        if lines is None:
            fill(written, start, end, 0x00)
        elif 0xFF in lines:
            written[start:end] = without(bytes(written[start:end]), of_bytes(lines, self.line))

    def change(self, window: Window, start: int, data: bytes, mask: bytes | None = None) -> None:
        """Write to G, where ``mask`` is set. Snapshots and announcements learn of it.

        It is not a store of the CPU.
        """
        extent = window.extent
        place = extent.start + start
        if mask is None:
            self._memory.write(extent.backing, place, data)
        else:
            self._memory.write_where(extent.backing, place, data, mask)
        self.enter_snapshots(extent, start, data, mask)
        for copies in self.announced.values():
            copies.patch(extent.backing, place, data, mask)
        window.replace(start, data, mask)

    # Ownership.

    def enter_snapshots(
        self, extent: Extent, start: int, data: bytes, mask: bytes | None = None
    ) -> None:
        """A change of G that is not the CPU's enters the snapshots of the line's buffers."""
        for buffer in extent.buffers:
            buffer.owned.patch(extent.backing, extent.start + start, data, mask)

    def hand_over(self, buffer: Buffer, windows: Iterable[tuple[Window, int, int]]) -> None:
        """The device owns the bytes [start, end) of each window after its maintenance."""
        for window, start, end in windows:
            self.observe(window)
            self.draw(window)
            self.clean(window)
            self.take_snapshot(buffer, window.extent, start, window.bytes_at(start, end))

    def take_snapshot(self, buffer: Buffer, extent: Extent, start: int, data: bytes) -> None:
        """Keep what the device got, to find stores of the CPU later."""
        buffer.owned.put(extent.backing, extent.start + start, data)

    def compare_snapshot(self, buffer: Buffer, window: Window, start: int, end: int) -> None:
        """Report the lines that the CPU stored to while the device owned them; ownership ends."""
        extent = window.extent
        found = window.bytes_at(start, end)
        kept = buffer.owned.expected(extent.backing, extent.start + start, found)
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
        for first, last in self.reporter.reported(window, lines):
            for low, high in self.reporter.histories(window.extent, first, last):
                if self.reporter.reports.full:
                    self.reporter.reports.lost += 1
                    break
                begin, end = max(low * self.line - start, 0), (low + 1) * self.line - start
                changed = next(runs(mask[begin:end]))
                part = slice(begin + changed[0], begin + changed[1])
                place = (low, high, start + part.start)
                kind = ReportKind.STORED_WHILE_DEVICE_OWNS
                self.reporter.report(window, place, kind, buffer, None, kept[part], found[part])

    def take_back(self, buffer: Buffer, window: Window) -> None:
        """The CPU owns the bytes again, and may store to them."""
        extent, low, high = window.extent, window.low, window.high
        buffer.owned.drop(extent.backing, extent.start + low, high - low)

    # The end of a buffer.

    def report_release(self, buffer: Buffer, window: Window, how: Release) -> None:
        """Report what a missing sync left behind in the bytes of a buffer that is let go.

        Of dirty lines, only those that the device still owns, or of which it has read older bytes:
        all others are the CPU's own. Of a buffer that is given up, only those that it has read:
        what the device wrote nobody wants, and who has the memory next may store to it.
        """
        extent = window.extent
        if not extent.imaged or how is Release.FORGOTTEN:
            return
        read = self.still_stale(window)
        if how is Release.GIVEN_UP:
            self.reporter.report_memory(window, read, ReportKind.RELEASED_DIRTY)
            return
        owned = self.still_owned(buffer, window)
        again = MissingCall.SYNC_FOR_DEVICE_AGAIN
        self.reporter.report_memory(window, owned, ReportKind.RELEASED_DIRTY, again)
        self.reporter.report_memory(window, without(read, owned), ReportKind.RELEASED_DIRTY)
        written = window.written(window.low, window.high)
        self.reporter.report_image(window, written, ReportKind.RELEASED_UNREAD)

    def still_owned(self, buffer: Buffer, window: Window) -> bytes:
        """Return the dirty lines in which the CPU stored to bytes that the device owns: a mask."""
        extent, low = window.extent, window.low
        found = window.bytes_at(low, window.high)
        kept = buffer.owned.expected(extent.backing, extent.start + low, found)
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
        image = window.extent.image[low:high]
        older = window.lines_of(low, differing(image, window.bytes_at(low, high)))
        return both(older, read)

    def settle(self, window: Window) -> None:
        """The last buffer is gone: a dirty line keeps G, any other takes D into G."""
        if window.extent.imaged:
            self.take_image(window, window.lines_with(_NOT_DIRTY))
