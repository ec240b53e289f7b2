"""Named faults of the cache model: each breaks one rule on purpose, in one overridden method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .buffers import Buffer
from .lines import Segment, Window
from .model import CacheModel
from .names import Operation, Span
from .reports import ReportKind


class _CleanNoop(CacheModel):
    def clean(self, window: Window) -> None:
        pass


class _InvalidateNoop(CacheModel):
    def invalidate(self, window: Window) -> None:
        pass


class _CleanOneLineShort(CacheModel):
    def clean(self, window: Window) -> None:
        shorter = window.memory[: -self.line]
        super().clean(Window(window.segment, window.first, window.lines - 1, shorter))


class _WriteThroughCopiesLine(CacheModel):
    def stored_through(self, window: Window, first: int, last: int) -> None:
        start, end = first * self.line, last * self.line
        window.segment.image[start:end] = window.bytes_at(start, end)
        window.segment.known[start:end] = window.bytes_at(start, end)


class _SnoopAsNoSnoop(CacheModel):
    """Where there are lines: memory that nothing tracks has no image that could be taken."""

    def _tracks(self, spans: Sequence[Span]) -> bool:
        return all(self.look(span) is not None for span in spans)

    def read(self, spans: Sequence[Span], *, no_snoop: bool) -> bytes:
        return super().read(spans, no_snoop=no_snoop or self._tracks(spans))

    def write(self, spans: Sequence[Span], data: bytes, *, no_snoop: bool) -> None:
        super().write(spans, data, no_snoop=no_snoop or self._tracks(spans))


class _NoSnoopAsSnoop(CacheModel):
    """What ignoring the attribute, or EnableNoSnoop read as clear, comes to."""

    def read(self, spans: Sequence[Span], *, no_snoop: bool) -> bytes:
        return super().read(spans, no_snoop=False)

    def write(self, spans: Sequence[Span], data: bytes, *, no_snoop: bool) -> None:
        super().write(spans, data, no_snoop=False)


class _SnoopedWriteNotInImage(CacheModel):
    def enter(self, segment: Segment, start: int, data: bytes) -> None:
        if segment.imaged:
            segment.known[start : start + len(data)] = data
            segment.written[start : start + len(data)] = bytes(len(data))


class _WrittenForgotten(CacheModel):
    def mark_written(self, segment: Segment, start: int, end: int) -> None:
        pass


class _DirtyNotSeen(CacheModel):
    def stored_back(self, window: Window, first: int, last: int) -> None:
        start, end = first * self.line, last * self.line
        window.segment.known[start:end] = window.bytes_at(start, end)


class _MayHaveStoredForgotten(CacheModel):
    def cpu_may_store(self, window: Window) -> None:
        pass


class _SnapshotBeforeMaintenance(CacheModel):
    """Shows in seeded mode: only an eviction changes G between the two."""

    def hand_over(self, buffer: Buffer, windows: Iterable[tuple[Window, int, int]]) -> None:
        listed = list(windows)
        early = [window.bytes_at(start, end) for window, start, end in listed]
        super().hand_over(buffer, listed)
        for (window, start, _), data in zip(listed, early, strict=True):
            self.take_snapshot(buffer, window.segment, start, data)


class _SnapshotNeverCompared(CacheModel):
    def compare_snapshot(self, buffer: Buffer, window: Window, start: int, end: int) -> None:
        buffer.owned.drop(window.segment.backing, window.segment.start + start, end - start)


class _ReportsLost(CacheModel):
    def report(
        self,
        window: Window,
        index: int,
        kind: ReportKind,
        expected: bytes = b"",
        seen: bytes = b"",
        by: Operation | None = None,
        lines: int = 1,
        shift: int = 0,
    ) -> None:
        pass


class _UntrackedReached(CacheModel):
    def _accessed(self, spans: Sequence[Span], no_snoop: bool) -> list[tuple[Segment | None, Span]]:
        return super()._accessed(spans, False)


class _WholeLineToMemory(CacheModel):
    """Undoes stores of a CPU that runs: no sequence of single steps can show that."""

    def take_image(self, window: Window, first: int, last: int) -> None:
        start, end = first * self.line, last * self.line
        image = bytes(window.segment.image[start:end])
        self.change(window, start, image)
        window.segment.known[start:end] = image


FAULTS: Mapping[str, type[CacheModel]] = {
    "cache-clean-noop": _CleanNoop,
    "cache-invalidate-noop": _InvalidateNoop,
    "cache-clean-one-line-short": _CleanOneLineShort,
    "cache-writethrough-copies-whole-line": _WriteThroughCopiesLine,
    "cache-snoop-as-no-snoop": _SnoopAsNoSnoop,
    "cache-no-snoop-as-snoop": _NoSnoopAsSnoop,
    "cache-snooped-write-not-in-image": _SnoopedWriteNotInImage,
    "cache-written-mark-forgotten": _WrittenForgotten,
    "cache-dirty-not-seen": _DirtyNotSeen,
    "cache-may-have-stored-forgotten": _MayHaveStoredForgotten,
    "cache-snapshot-before-maintenance": _SnapshotBeforeMaintenance,
    "cache-snapshot-never-compared": _SnapshotNeverCompared,
    "cache-reports-lost": _ReportsLost,
    "cache-untracked-reached": _UntrackedReached,
    "cache-whole-line-to-memory": _WholeLineToMemory,
}
