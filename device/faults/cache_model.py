# SPDX-License-Identifier: Apache-2.0
"""Faults of the cache model: each breaks one rule, in one overridden method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dma_rehearsal.device.cache_model.blame import Blame
from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import DIRTY, FRESH, Segment, Window, lines_with
from dma_rehearsal.device.cache_model.masks import of_bytes
from dma_rehearsal.device.cache_model.model import CacheModel
from dma_rehearsal.device.cache_model.names import GuestMemory, Mode, Operation, Span
from dma_rehearsal.device.cache_model.reports import MISSING, ReportKind
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.platform.platform import Platform

_STORED = lines_with(DIRTY, without=FRESH)


class _CleanNoop(CacheModel):
    def clean(self, window: Window) -> None:
        pass


class _InvalidateNoop(CacheModel):
    def invalidate(self, window: Window) -> None:
        pass


class _CleanOneLineShort(CacheModel):
    def clean(self, window: Window) -> None:
        shorter = window.memory[: -self.line]
        edges = window.low, window.high
        super().clean(Window(window.segment, window.first, window.lines - 1, shorter, *edges))


class _WriteThroughCopiesLine(CacheModel):
    def stored_through(self, window: Window, changed: bytes) -> None:
        lines = window.lines_of(window.start, changed)
        super().stored_through(window, of_bytes(lines, self.line))


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
    def enter(self, segment: Segment, start: int, data: bytes, mask: bytes | None = None) -> None:
        place = slice(start, start + len(data))
        image = segment.image[place]
        super().enter(segment, start, data, mask)
        segment.image[place] = image


class _WrittenForgotten(CacheModel):
    def mark_written(self, segment: Segment, start: int, end: int) -> None:
        pass


class _DirtyNotSeen(CacheModel):
    def stored_back(self, window: Window, lines: bytes) -> None:
        window.segment.known[window.start : window.end] = window.memory


class _StaleReadForgotten(CacheModel):
    def read_stale(self, window: Window, start: int, end: int) -> None:
        pass


class _OwnerForgotten(CacheModel):
    """Cries wolf: whatever is dirty at the release is reported."""

    def still_owned(self, buffer: Buffer, window: Window) -> bytes:
        return window.lines_with(_STORED)


class _MaintenanceTakesNothingBack(CacheModel):
    """Only a sync does, so that a store after complete() counts as one to the device's bytes."""

    def take_back(self, buffer: Buffer, window: Window) -> None:
        if self._operation is Operation.SYNC_FOR_CPU:
            super().take_back(buffer, window)


class _SharedLineNotSeen(CacheModel):
    def blamed(
        self,
        kind: ReportKind,
        window: Window,
        index: int,
        by: Operation,
        buffer: Buffer,
    ) -> Blame:
        return Blame(MISSING[kind], buffer.tag)


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
        lines: tuple[int, int, int],
        kind: ReportKind,
        buffer: Buffer,
        why: Blame | None = None,
        expected: bytes = b"",
        seen: bytes = b"",
        by: Operation | None = None,
    ) -> None:
        pass


class _UntrackedReached(CacheModel):
    def _accessed(self, spans: Sequence[Span], no_snoop: bool) -> list[tuple[Segment | None, Span]]:
        return super()._accessed(spans, False)


MODELS: Mapping[str, type[CacheModel]] = {
    "cache-clean-noop": _CleanNoop,
    "cache-invalidate-noop": _InvalidateNoop,
    "cache-clean-one-line-short": _CleanOneLineShort,
    "cache-writethrough-copies-whole-line": _WriteThroughCopiesLine,
    "cache-snoop-as-no-snoop": _SnoopAsNoSnoop,
    "cache-no-snoop-as-snoop": _NoSnoopAsSnoop,
    "cache-snooped-write-not-in-image": _SnoopedWriteNotInImage,
    "cache-written-mark-forgotten": _WrittenForgotten,
    "cache-dirty-not-seen": _DirtyNotSeen,
    "cache-stale-read-forgotten": _StaleReadForgotten,
    "cache-owner-forgotten": _OwnerForgotten,
    "cache-maintenance-takes-nothing-back": _MaintenanceTakesNothingBack,
    "cache-shared-line-not-seen": _SharedLineNotSeen,
    "cache-snapshot-before-maintenance": _SnapshotBeforeMaintenance,
    "cache-snapshot-never-compared": _SnapshotNeverCompared,
    "cache-reports-lost": _ReportsLost,
    "cache-untracked-reached": _UntrackedReached,
}


def _with_model(model: type[CacheModel]) -> type[Platform]:
    """Return a platform whose cache model breaks one rule."""

    class Broken(Platform):
        def make_cache(self, memory: GuestMemory, mode: Mode, line: int, seed: int) -> CacheModel:
            return model(memory, mode, line, seed)

    return Broken


IMPLEMENTATIONS = {name: DeviceFault(platform=_with_model(model)) for name, model in MODELS.items()}
