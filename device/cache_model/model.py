# SPDX-License-Identifier: Apache-2.0
"""The cache model: what a board without coherent I/O does to DMA. No I/O; see the package."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

from dma_rehearsal.device.cache_model import seeded
from dma_rehearsal.device.cache_model.buffers import Buffer, check_spans
from dma_rehearsal.device.cache_model.lines import (
    CACHED,
    DIRTY,
    FRESH,
    IMAGED,
    STALE,
    UNIMAGED,
    Extent,
    Line,
    Window,
    look,
    marking,
    retained,
)
from dma_rehearsal.device.cache_model.masks import differing
from dma_rehearsal.device.cache_model.names import (
    BUFFER_COST,
    LINE_SIZES,
    MAX_ANNOUNCED,
    MAX_OPERATION,
    MAX_PIECES,
    MAX_PIECES_OF_ACCESS,
    MAX_PIECES_OF_BUFFER,
    MAX_RETAINED,
    MAX_SHARERS,
    MAX_SMALL_SHARERS,
    MAX_TRACKED,
    PIECE_COST,
    SPAN_COST,
    BadAnnouncement,
    BadBuffer,
    BadConfiguration,
    BadRange,
    BadType,
    Busy,
    Direction,
    GuestMemory,
    Mode,
    NotTracked,
    Operation,
    Release,
    Scattered,
    Span,
    TooMuch,
)
from dma_rehearsal.device.cache_model.reporting import Reporter
from dma_rehearsal.device.cache_model.reports import ReportKind, Reports
from dma_rehearsal.device.cache_model.rules import Rules
from dma_rehearsal.device.cache_model.snapshots import Held, Snapshots
from dma_rehearsal.device.cache_model.tracked import Tracked
from dma_rehearsal.device.layout import MemoryType
from dma_rehearsal.device.layout.page import PAGE

_NOT_FRESH = marking(keep=CACHED | DIRTY | STALE, add=0)
_PIECE = 128  # bytes that one more piece counts as: 16,384 take as long as 2 MiB


class CacheModel:
    """The caches between the CPUs and ``memory``, for one mode, line size and seed.

    A buffer is named by a tag of its owner's choice. Offsets and lengths are bytes of the buffer.
    Not for several threads. ``rules`` and ``reporter`` make other ones than the sound ones, for a
    fault. BadConfiguration: a line size or seed that there is not.
    """

    def __init__(
        self,
        memory: GuestMemory,
        mode: Mode = Mode.STRICT,
        line: int = 64,
        seed: int = 0,
        *,
        rules: Callable[[GuestMemory, Mode, int, int, Reporter], Rules] = Rules,
        reporter: Callable[[int], Reporter] = Reporter,
    ) -> None:
        if line not in LINE_SIZES:
            raise BadConfiguration(f"a line of {line} bytes: there are {LINE_SIZES}")
        if not 0 <= seed <= seeded.SEED_MAX:
            raise BadConfiguration("a seed has 64 bits")
        self._memory, self.mode, self.line, self.seed = memory, mode, line, seed
        self._reporter = reporter(line)
        self._rules = rules(memory, mode, line, seed, self._reporter)
        self._held = Held()
        self._tracked = Tracked()
        self._buffers: dict[int, Buffer] = {}
        self._ordinals = 0
        self._named = 0  # bytes that the buffers themselves take

    @property
    def reports(self) -> Reports:
        """Return the reports that were not taken yet."""
        return self._reporter.reports

    @property
    def number(self) -> int:
        """Return the number of the operation that runs, or ran last."""
        return self._reporter.number

    @property
    def retained(self) -> int:
        """Return the bytes that the model holds, at most: lines, copies, buffers and reports."""
        return self._tracked.retained + self._held.size + self._named + self.reports.retained

    @property
    def tracked_size(self) -> int:
        """Return the bytes of all tracked lines."""
        return self._tracked.size

    def tracks(self, tag: int) -> bool:
        """Return whether a buffer is tracked by this tag."""
        return tag in self._buffers

    def cost(self, tag: int, length: int | None = None) -> int:
        """Return what an operation on bytes of a buffer may cost: those, and 128 a piece.

        ``length``: how many bytes; None: all of them. A buffer that is not tracked costs nothing.
        """
        buffer = self._buffers.get(tag)
        if buffer is None:
            return 0
        length = buffer.length if length is None else min(length, buffer.length)
        return length + _PIECE * min(buffer.pieces, length // self.line + 2)

    def look(self, span: Span) -> Line | None:
        """Return the state of the line that holds the first byte; None where it is untracked."""
        for extent, start, _ in self._tracked.pieces(span.backing, span.offset, span.offset + 1):
            if extent is not None:
                return look(extent, start)
        return None

    # A buffer's life.

    def track(
        self,
        tag: int,
        direction: Direction,
        runs: Sequence[tuple[Span, MemoryType]],
        *,
        stored: bool = False,
    ) -> None:
        """Track a buffer that was mapped; ``runs`` in the order of its addresses.

        ``stored``: the CPU has stored to it before, so that a device which reads it without a sync
        reads older bytes. Otherwise its lines are dirty only because they are tracked.
        BadBuffer, BadRange, BadType, Busy, TooMuch, or BadConfiguration while the mode is off.
        """
        self._begin(Operation.TRACK)
        if self.mode is Mode.OFF:
            raise BadConfiguration("the model is off")
        if tag in self._buffers:
            raise BadBuffer(f"buffer {tag:#x} is tracked already")
        check_spans([span for span, _ in runs], self.line, MAX_OPERATION)
        self._admit(tag, runs)
        spans = tuple(span for span, _ in runs)
        owned = Snapshots(self._held)
        buffer = Buffer(tag, self._ordinals, direction, spans, self.line, owned)
        self._ordinals += 1
        self._named += buffer.retained
        position = 0
        for span, kind in runs:
            start, end = self._rounded(span)
            number = buffer.line_number(position - (span.offset - start))
            self._track_lines(buffer, span.backing, start, end, kind, number)
            if stored:
                for extent, low, high in self._tracked.pieces(span.backing, start, end):
                    if extent is not None:
                        _no_longer_fresh(extent, low, high)
            position += span.length
        self._buffers[tag] = buffer

    def _admit(self, tag: int, runs: Sequence[tuple[Span, MemoryType]]) -> None:
        """Refuse what cannot be tracked before anything is."""
        new = own = 0
        length = sum(span.length for span, _ in runs)
        most = BUFFER_COST + SPAN_COST * len(runs)
        pieces = len(self._tracked)
        edges = []
        for span, kind in runs:
            if kind not in IMAGED | UNIMAGED:
                raise BadType(f"{kind.name} memory at offset {span.offset:#x} has no rules")
            start, end = self._rounded(span)
            edges.append((repr(span.backing), start, end, kind))
            pieces += 2  # where the span cuts others
            most += 2 * PIECE_COST
            for extent, low, high in self._tracked.pieces(span.backing, start, end):
                own += 1
                if extent is None:
                    new += high - low
                    pieces += 1
                    most += retained(high - low, self.line, imaged=kind in IMAGED)
                elif extent.type is not kind:
                    raise Busy(span.backing, low)
                elif not _may_share(extent, length):
                    raise TooMuch(
                        f"{len(extent.buffers)} buffers track offset {low:#x} of {span.backing}"
                    )
                else:
                    for other in extent.buffers:
                        _admit_pieces(other.tag, other.pieces + 2 * len(runs))
        edges.sort()
        twice = 1
        for before, after in pairwise(edges):
            # The same memory twice in one buffer.
            same = before[0] == after[0] and after[1] < before[2]
            if same and before[3] is not after[3]:
                raise Busy(after[0], after[1])
            twice += same
        if twice > MAX_SHARERS:
            raise TooMuch(f"one buffer that has memory {twice} times; at most {MAX_SHARERS}")
        if self._tracked.size + new > MAX_TRACKED:
            raise TooMuch(f"{self._tracked.size + new} bytes; at most {MAX_TRACKED}")
        _admit_pieces(tag, own)
        if pieces > MAX_PIECES:
            raise TooMuch(f"{pieces} pieces of memory with different buffers; at most {MAX_PIECES}")
        self._admit_bytes(most)

    def _admit_bytes(self, more: int) -> None:
        """Refuse to hold more than ``MAX_RETAINED``: TooMuch."""
        if self.retained + more > MAX_RETAINED:
            raise TooMuch(f"{self.retained + more} bytes held; at most {MAX_RETAINED}")

    def _track_lines(
        self, buffer: Buffer, backing: Hashable, start: int, end: int, kind: MemoryType, number: int
    ) -> None:
        self._tracked.cut(backing, start)
        self._tracked.cut(backing, end)
        for extent, low, high in list(self._tracked.pieces(backing, start, end)):
            if extent is None:
                first = number + (low - start) // self.line
                extent = self.new_lines(buffer, Span(backing, low, high - low), kind, first)
                self._tracked.add(extent)
                window = Window(extent, 0, extent.size // self.line, b"", 0, extent.size)
            else:
                window = self._window(extent, Span(backing, low, high - low))
                self._rules.observe(window)
                extent.buffers.append(buffer)
            buffer.pieces += 1
            window.note(Operation.TRACK, self._reporter.number)
        self._tracked.join(backing, start, end)

    def new_lines(self, buffer: Buffer, span: Span, kind: MemoryType, first: int) -> Extent:
        """Return lines that nothing tracked yet; ``first``: the first one's number in the buffer.

        B is G, not the poison that D holds: so the model still sees whether the CPU stores to a
        line that is dirty only because it was tracked.
        """
        lines = span.length // self.line
        extent = Extent(
            *(span.backing, span.offset, span.length, self.line, kind, [buffer]),
            *(buffer.ordinal, first),
        )
        extent.marks = bytearray(lines)
        extent.last = bytearray(lines)
        extent.when.frombytes(bytes(lines * extent.when.itemsize))
        if extent.imaged:
            memory = self._memory.read(span.backing, span.offset, span.length)
            extent.known = bytearray(memory)
            extent.written = bytearray(span.length)
            if kind is MemoryType.WB:
                dirty = bytes((CACHED | DIRTY | FRESH,))
                extent.marks = bytearray(dirty * lines)
                start = first * self.line
                extent.image = bytearray(
                    seeded.poison(self.seed, buffer.ordinal, start, span.length)
                )
            else:
                extent.marks = bytearray(bytes((CACHED,)) * lines)
                extent.image = bytearray(memory)
        return extent

    def untrack(self, tag: int, how: Release = Release.SETTLED) -> None:
        """Let a buffer go that is released, and report what a missing sync left. BadBuffer."""
        buffer = self._begin_call(Operation.UNTRACK, tag)
        for span in buffer.spans:
            start, end = self._rounded(span)
            self._tracked.cut(span.backing, start)
            self._tracked.cut(span.backing, end)
            for extent, low, high in list(self._tracked.pieces(span.backing, start, end)):
                if extent is None:
                    continue  # the same memory twice in one buffer: gone with the first
                first, last = max(low, span.offset), min(high, span.offset + span.length)
                window = self._window(extent, Span(span.backing, first, last - first))
                self._rules.observe(window)
                self._rules.report_release(buffer, window, how)
                extent.buffers.remove(buffer)
                if extent.buffers:
                    window.note(Operation.UNTRACK, self._reporter.number)
                else:
                    if how is Release.SETTLED:
                        self._rules.settle(window)
                    self._tracked.remove(extent)
            self._tracked.join(span.backing, start, end)
        del self._buffers[tag]
        self._named -= buffer.retained
        buffer.owned.clear()
        for key in [key for key in self._rules.announced if key[0] == tag]:
            self._rules.announced.pop(key).clear()

    # Accesses of a device. The spans are those of its bus addresses, in order.

    def check(self, spans: Sequence[Span], *, no_snoop: bool) -> None:
        """Refuse what ``read`` and ``write`` would, and do nothing.

        BadRange, NotTracked, Scattered. For a DMA of several parts that is refused whole.
        """
        self._accessed(spans, no_snoop)

    def read(self, spans: Sequence[Span], *, no_snoop: bool) -> bytes:
        """Return what a device reads. BadRange; NotTracked, Scattered: then nothing was read."""
        self._begin(Operation.NO_SNOOP_READ if no_snoop else Operation.SNOOPED_READ)
        parts = []
        for extent, span in self._accessed(spans, no_snoop):
            if extent is None:
                parts.append(self._memory.read(span.backing, span.offset, span.length))
                continue
            window, start, end = self._touched(extent, span)
            self._rules.observe(window)
            self._rules.draw(window)
            if no_snoop:
                parts.append(self._rules.read_image(window, start, end))
            else:
                parts.append(window.bytes_at(start, end))
            window.note(self._reporter.operation, self._reporter.number)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, spans: Sequence[Span], data: bytes, *, no_snoop: bool) -> None:
        """Write what a device writes. BadRange; NotTracked, Scattered: nothing was written."""
        self._begin(Operation.NO_SNOOP_WRITE if no_snoop else Operation.SNOOPED_WRITE)
        if sum(span.length for span in spans) != len(data):
            raise BadRange(f"{len(data)} bytes for a range of another length")
        at = 0
        for extent, span in self._accessed(spans, no_snoop):
            part = data if span.length == len(data) else data[at : at + span.length]
            at += span.length
            if extent is None:
                self._memory.write(span.backing, span.offset, part)
                continue
            window, start, _ = self._touched(extent, span)
            self._rules.observe(window)
            self._rules.draw(window)
            if no_snoop:
                self._rules.write_image(window, start, part)
            else:
                self._rules.write_through(window, start, part)
            window.note(self._reporter.operation, self._reporter.number)

    def _accessed(self, spans: Sequence[Span], no_snoop: bool) -> list[tuple[Extent | None, Span]]:
        if sum(span.length for span in spans) > MAX_OPERATION:
            raise BadRange(f"more than {MAX_OPERATION} bytes at once")
        found = [
            (extent, Span(span.backing, low, high - low))
            for span in spans
            for extent, low, high in self._tracked.pieces(
                span.backing, span.offset, span.offset + span.length
            )
        ]
        if no_snoop and self.mode is Mode.STRICT:
            for extent, span in found:
                if extent is None:
                    raise NotTracked(span.backing, span.offset)
        pages = sum(1 + span.length // PAGE for span in spans)
        if len(found) > MAX_PIECES_OF_ACCESS + pages:
            raise Scattered(spans[0].backing, spans[0].offset, len(found))
        return found

    # Maintenance by range, as an outer cache's registers do it. BadBuffer, BadRange.

    def clean_range(self, tag: int, offset: int, length: int) -> None:
        """Write dirty lines back to DRAM (IOKit's kIOMemoryIncoherentIOStore)."""
        self._maintain(Operation.CLEAN, tag, offset, length, self._rules.clean)

    def invalidate_range(self, tag: int, offset: int, length: int) -> None:
        """Show the CPU what is in DRAM; stores that were not cleaned are lost."""
        self._maintain(Operation.INVALIDATE, tag, offset, length, self._rules.invalidate)

    def clean_invalidate_range(self, tag: int, offset: int, length: int) -> None:
        """Clean, then invalidate (IOKit's kIOMemoryIncoherentIOFlush)."""
        rules = (self._rules.clean, self._rules.invalidate)
        self._maintain(Operation.CLEAN_INVALIDATE, tag, offset, length, *rules)

    def _maintain(
        self,
        operation: Operation,
        tag: int,
        offset: int,
        length: int,
        *rules: Callable[[Window], None],
    ) -> None:
        buffer = self._begin_call(operation, tag)
        for window, _, _ in self._windows(buffer, offset, length):
            self._rules.observe(window)
            self._rules.draw(window)
            for rule in rules:
                rule(window)
            if operation is not Operation.CLEAN:
                self._rules.take_back(buffer, window)
            window.note(operation, self._reporter.number)

    # Ownership. None as the direction is the buffer's own.

    def sync_for_device(
        self, tag: int, offset: int, length: int, direction: Direction | None = None
    ) -> None:
        """Clean, and keep a snapshot: the device owns the bytes now. BadBuffer, BadRange."""
        buffer = self._begin_call(Operation.SYNC_FOR_DEVICE, tag)
        windows = self._windows(buffer, offset, length)
        self._admit_copies(windows)
        self.check_direction(buffer, windows[0], direction)
        self._rules.hand_over(buffer, windows)
        for window, _, _ in windows:
            window.note(self._reporter.operation, self._reporter.number)

    def sync_for_cpu(
        self, tag: int, offset: int, length: int, direction: Direction | None = None
    ) -> None:
        """Compare with the snapshot, and invalidate unless it is an Out buffer's."""
        buffer = self._begin_call(Operation.SYNC_FOR_CPU, tag)
        windows = self._windows(buffer, offset, length)
        self.check_direction(buffer, windows[0], direction)
        for window, start, end in windows:
            self._rules.compare_snapshot(buffer, window, start, end)
            self._rules.observe(window)
            self._rules.draw(window)
            if (direction or buffer.direction) is not Direction.OUT:
                self._rules.invalidate(window)
            window.note(self._reporter.operation, self._reporter.number)

    def complete(self, tag: int, offset: int, length: int) -> None:
        """Take note that the DMA is over: the CPU owns the bytes. No line changes.

        BadBuffer, BadRange.
        """
        buffer = self._begin_call(Operation.COMPLETE, tag)
        for window, start, end in self._windows(buffer, offset, length):
            self._rules.compare_snapshot(buffer, window, start, end)

    def _admit_copies(self, windows: Sequence[tuple[Window, int, int]]) -> None:
        """Refuse to keep a copy of these bytes where there is no room: TooMuch."""
        self._admit_bytes(sum(Snapshots.most(end - start) for _, start, end in windows))

    def check_direction(
        self, buffer: Buffer, place: tuple[Window, int, int], direction: Direction | None
    ) -> None:
        """Report a sync's direction that the buffer does not have."""
        if direction and direction & ~buffer.direction:
            window, start, _ = place
            index = start // self.line
            self._reporter.report(
                window, (index, index + 1, start), ReportKind.WRONG_DIRECTION, buffer
            )

    # Writers that the model does not see: another device model, the kernel.

    def announce_begin(self, tag: int, offset: int, length: int) -> None:
        """Expect a foreign writer. BadBuffer, BadRange, BadAnnouncement."""
        buffer = self._begin_call(Operation.ANNOUNCE_BEGIN, tag)
        windows = self._windows(buffer, offset, length)
        if (tag, offset, length) in self._rules.announced or len(
            self._rules.announced
        ) >= MAX_ANNOUNCED:
            raise BadAnnouncement(f"open already, or the {MAX_ANNOUNCED + 1}th")
        self._admit_copies(windows)
        copies = Snapshots(self._held)
        for window, start, end in windows:
            self._rules.observe(window)
            extent = window.extent
            copies.put(extent.backing, extent.start + start, window.bytes_at(start, end))
            window.note(self._reporter.operation, self._reporter.number)
        self._rules.announced[tag, offset, length] = copies

    def announce_end(self, tag: int, offset: int, length: int) -> None:
        """The foreign writer is done: what changed enters as a snooped write does.

        A store of the CPU to these bytes in between cannot be told apart from it.
        BadBuffer, BadRange, or BadAnnouncement where nothing began.
        """
        buffer = self._begin_call(Operation.ANNOUNCE_END, tag)
        windows = self._windows(buffer, offset, length)
        copies = self._rules.announced.pop((tag, offset, length), None)
        if copies is None:
            raise BadAnnouncement("an end without its begin")
        for window, start, end in windows:
            extent = window.extent
            found = window.bytes_at(start, end)
            before = copies.expected(extent.backing, extent.start + start, found)
            if before != found:
                mask = differing(before, found)
                self._rules.enter(extent, start, found, mask)
                self._rules.enter_snapshots(extent, start, found, mask)
            self._rules.observe(window)
            window.note(self._reporter.operation, self._reporter.number)
        copies.clear()

    # The beginning of operations.

    def _begin(self, operation: Operation) -> None:
        self._reporter.begin(operation)

    def _begin_call(self, operation: Operation, tag: int) -> Buffer:
        self._begin(operation)
        if tag not in self._buffers:
            raise BadBuffer(f"buffer {tag:#x} is not tracked")
        buffer = self._reporter.buffer = self._buffers[tag]
        return buffer

    def _windows(self, buffer: Buffer, offset: int, length: int) -> list[tuple[Window, int, int]]:
        """Return the lines of some bytes of a buffer, and the positions of those bytes in them."""
        return [
            self._touched(extent, Span(span.backing, low, high - low))
            for span in buffer.part(offset, length)
            for extent, low, high in self._tracked.pieces(
                span.backing, span.offset, span.offset + span.length
            )
            if extent is not None
        ]

    def _touched(self, extent: Extent, span: Span) -> tuple[Window, int, int]:
        window = self._window(extent, span)
        return window, window.low, window.high

    def _window(self, extent: Extent, span: Span) -> Window:
        """Copy G once for the lines of some bytes."""
        start, end = self._rounded(span)
        memory = self._memory.read(extent.backing, start, end - start)
        first, lines = (start - extent.start) // self.line, (end - start) // self.line
        low = span.offset - extent.start
        return Window(extent, first, lines, memory, low, low + span.length)

    def _rounded(self, span: Span) -> tuple[int, int]:
        end = span.offset + span.length
        return span.offset - span.offset % self.line, end + -end % self.line


def _no_longer_fresh(extent: Extent, low: int, high: int) -> None:
    """Have lines that are dirty because they were tracked be dirty by stores of the CPU."""
    place = slice((low - extent.start) // extent.line, (high - extent.start) // extent.line)
    extent.marks[place] = extent.marks[place].translate(_NOT_FRESH)


def _may_share(extent: Extent, length: int) -> bool:
    """Return whether one more buffer of so many bytes may track lines that others track.

    An operation looks at all of them in each piece; so many are small.
    """
    count = len(extent.buffers)
    if count < MAX_SHARERS:
        return True
    size = length + sum(each.length for each in extent.buffers)
    return count < MAX_SMALL_SHARERS and size <= MAX_OPERATION


def _admit_pieces(tag: int, pieces: int) -> None:
    """Refuse to cut a buffer into more pieces than it may have: TooMuch."""
    if pieces > MAX_PIECES_OF_BUFFER:
        raise TooMuch(
            f"{pieces} pieces of buffer {tag:#x}, which others share; at most "
            f"{MAX_PIECES_OF_BUFFER}"
        )


MakeModel = Callable[[GuestMemory, Mode, int, int], CacheModel]
