# SPDX-License-Identifier: Apache-2.0
"""Which call was missing where lines suffered; none was where two owners share a line.

A line at the edge of what an operation is about holds other bytes as well. Where only those
suffered, every sync may have been in its place: the line itself is the mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.lines import FRESH, Extent, Window
from dma_rehearsal.device.cache_model.masks import differing, runs
from dma_rehearsal.device.cache_model.names import Direction, Operation
from dma_rehearsal.device.cache_model.reports import MISSING, MissingCall, ReportKind

_STORES_SUFFER = frozenset({ReportKind.WRITE_TO_DIRTY_LINE, ReportKind.CPU_BYTES_LOST})
_DEVICE_SUFFERS = frozenset({ReportKind.DEVICE_BYTES_LOST, ReportKind.RELEASED_UNREAD})


class Blame(NamedTuple):
    """The missing call, and the tag of the buffer whose bytes suffered: mostly the report's own."""

    missing: MissingCall
    other: int


def blame(kind: ReportKind, window: Window, index: int, by: Operation, buffer: Buffer) -> Blame:
    """Return what to say of one line of a report that names ``buffer``."""
    extent = window.extent
    sharer = None if by is Operation.EVICTION else _sharer(kind, window, index, buffer)
    if sharer is not None:
        return Blame(MissingCall.NONE_LINE_IS_SHARED, sharer)
    synced = extent.last[index] == Operation.SYNC_FOR_CPU and extent.buffers == [buffer]
    if kind in _DEVICE_SUFFERS and synced:  # and the device's bytes are still in DRAM alone
        if buffer.direction is Direction.OUT:
            return Blame(MissingCall.NONE_DIRECTION_IS_OUT, buffer.tag)
        return Blame(MissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION, buffer.tag)
    return Blame(MISSING[kind], buffer.tag)


def _sharer(kind: ReportKind, window: Window, index: int, buffer: Buffer) -> int | None:
    """Return whose bytes suffered when none of those that the operation is about did."""
    extent = window.extent
    low, high = index * extent.line, (index + 1) * extent.line
    if window.low <= low and high <= window.high:
        return None
    if kind in _STORES_SUFFER and not extent.marks[index] & FRESH:
        suffered = list(_stored(window, low, high))
    elif kind is ReportKind.DEVICE_BYTES_LOST:
        suffered = [each for each in range(low, high) if extent.written[each]]
    else:
        return None
    if not suffered or any(window.low <= each < window.high for each in suffered):
        return None
    return _owner(extent, extent.start + suffered[0], buffer)


def _stored(window: Window, low: int, high: int) -> Iterator[int]:
    """Yield where the CPU's bytes are not in DRAM, and none of the device's are there."""
    extent = window.extent
    mask = differing(extent.image[low:high], window.bytes_at(low, high))
    for first, last in runs(mask):
        yield from (each for each in range(low + first, low + last) if not extent.written[each])


def _owner(extent: Extent, offset: int, buffer: Buffer) -> int:
    """Return the tag of the buffer that a byte is of, ``buffer`` first."""
    owners = (each for each in (buffer, *extent.buffers) if each.has(extent.backing, offset))
    return next(owners, buffer).tag
