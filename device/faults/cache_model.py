# SPDX-License-Identifier: Apache-2.0
"""Faults of the cache model: each breaks one rule, in one overridden method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from dma_rehearsal.device.cache_model.blame import Blame
from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import DIRTY, FRESH, Extent, Window, lines_with
from dma_rehearsal.device.cache_model.masks import of_bytes
from dma_rehearsal.device.cache_model.model import CacheModel, MakeModel
from dma_rehearsal.device.cache_model.names import Operation, Span
from dma_rehearsal.device.cache_model.reporting import Reporter
from dma_rehearsal.device.cache_model.reports import MISSING, ReportKind
from dma_rehearsal.device.cache_model.rules import Rules
from dma_rehearsal.device.faults.fault import DeviceFault
from dma_rehearsal.device.platform.platform import PlatformModels

_STORED = lines_with(DIRTY, without=FRESH)


class _CleanNoop(Rules):
    def clean(self, window: Window) -> None:
        pass


class _InvalidateNoop(Rules):
    def invalidate(self, window: Window) -> None:
        pass


class _CleanOneLineShort(Rules):
    def clean(self, window: Window) -> None:
        shorter = window.memory[: -self.line]
        edges = window.low, window.high
        super().clean(Window(window.extent, window.first, window.lines - 1, shorter, *edges))


class _WriteThroughCopiesLine(Rules):
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
    """Ignores the attribute No Snoop."""

    def read(self, spans: Sequence[Span], *, no_snoop: bool) -> bytes:
        return super().read(spans, no_snoop=False)

    def write(self, spans: Sequence[Span], data: bytes, *, no_snoop: bool) -> None:
        super().write(spans, data, no_snoop=False)


class _SnoopedWriteNotInImage(Rules):
    def enter(self, extent: Extent, start: int, data: bytes, mask: bytes | None = None) -> None:
        place = slice(start, start + len(data))
        image = extent.image[place]
        super().enter(extent, start, data, mask)
        extent.image[place] = image


class _WrittenForgotten(Rules):
    def mark_written(self, extent: Extent, start: int, end: int) -> None:
        pass


class _DirtyNotSeen(Rules):
    def stored_back(self, window: Window, lines: bytes) -> None:
        window.extent.known[window.start : window.end] = window.memory


class _StaleReadForgotten(Rules):
    def read_stale(self, window: Window, start: int, end: int) -> None:
        pass


class _OwnerForgotten(Rules):
    """Cries wolf: whatever is dirty at the release is reported."""

    def still_owned(self, buffer: Buffer, window: Window) -> bytes:
        return window.lines_with(_STORED)


class _MaintenanceTakesNothingBack(Rules):
    """Only a sync does, so that a store after complete() counts as one to the device's bytes."""

    def take_back(self, buffer: Buffer, window: Window) -> None:
        if self.reporter.operation is Operation.SYNC_FOR_CPU:
            super().take_back(buffer, window)


class _SharedLineNotSeen(Reporter):
    def blamed(
        self,
        kind: ReportKind,
        window: Window,
        index: int,
        by: Operation,
        buffer: Buffer,
    ) -> Blame:
        return Blame(MISSING[kind], buffer.tag)


class _SnapshotBeforeMaintenance(Rules):
    """Shows in seeded mode: only an eviction changes G between the two."""

    def hand_over(self, buffer: Buffer, windows: Iterable[tuple[Window, int, int]]) -> None:
        listed = list(windows)
        early = [window.bytes_at(start, end) for window, start, end in listed]
        super().hand_over(buffer, listed)
        for (window, start, _), data in zip(listed, early, strict=True):
            self.take_snapshot(buffer, window.extent, start, data)


class _SnapshotNeverCompared(Rules):
    def compare_snapshot(self, buffer: Buffer, window: Window, start: int, end: int) -> None:
        buffer.owned.drop(window.extent.backing, window.extent.start + start, end - start)


class _ReportsLost(Reporter):
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
    def _accessed(self, spans: Sequence[Span], no_snoop: bool) -> list[tuple[Extent | None, Span]]:
        return super()._accessed(spans, False)


MODELS: Mapping[str, MakeModel] = {
    "cache-clean-noop": partial(CacheModel, rules=_CleanNoop),
    "cache-invalidate-noop": partial(CacheModel, rules=_InvalidateNoop),
    "cache-clean-one-line-short": partial(CacheModel, rules=_CleanOneLineShort),
    "cache-writethrough-copies-whole-line": partial(CacheModel, rules=_WriteThroughCopiesLine),
    "cache-snoop-as-no-snoop": _SnoopAsNoSnoop,
    "cache-no-snoop-as-snoop": _NoSnoopAsSnoop,
    "cache-snooped-write-not-in-image": partial(CacheModel, rules=_SnoopedWriteNotInImage),
    "cache-written-mark-forgotten": partial(CacheModel, rules=_WrittenForgotten),
    "cache-dirty-not-seen": partial(CacheModel, rules=_DirtyNotSeen),
    "cache-stale-read-forgotten": partial(CacheModel, rules=_StaleReadForgotten),
    "cache-owner-forgotten": partial(CacheModel, rules=_OwnerForgotten),
    "cache-maintenance-takes-nothing-back": partial(CacheModel, rules=_MaintenanceTakesNothingBack),
    "cache-shared-line-not-seen": partial(CacheModel, reporter=_SharedLineNotSeen),
    "cache-snapshot-before-maintenance": partial(CacheModel, rules=_SnapshotBeforeMaintenance),
    "cache-snapshot-never-compared": partial(CacheModel, rules=_SnapshotNeverCompared),
    "cache-reports-lost": partial(CacheModel, reporter=_ReportsLost),
    "cache-untracked-reached": _UntrackedReached,
}


IMPLEMENTATIONS = {
    name: DeviceFault(platform=partial(PlatformModels, cache=model))
    for name, model in MODELS.items()
}
