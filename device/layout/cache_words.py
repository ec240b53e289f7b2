# SPDX-License-Identifier: Apache-2.0
"""The words for a report of the cache model, the same in the guest and on the host."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.device.layout.cache import CacheMissingCall, CacheReport, CacheReportKind

_SHOWN = 16  # bytes of each side
_MISSING = {
    CacheMissingCall.SYNC_FOR_DEVICE_AFTER_STORE: "sync_for_device() after the store",
    CacheMissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE: "sync_for_device() before the receive",
    CacheMissingCall.SYNC_FOR_CPU_BEFORE_STORE: "sync_for_cpu() before the store",
    CacheMissingCall.SYNC_FOR_CPU_AFTER_RECEIVE: "sync_for_cpu() after the receive",
    CacheMissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION: "the sync with the buffer's own direction",
    CacheMissingCall.SYNC_FOR_DEVICE_AGAIN: (
        "a second sync_for_device(), after the store: the one that came is older"
    ),
}


def report_words(report: CacheReport, name_of: Callable[[int], str]) -> str:
    """Return a report as a user gets it; ``name_of`` says what a buffer's tag stands for."""
    first = first_difference(report.expected, report.seen) or 0
    more = f" and {report.lines - 1} more" if report.lines > 1 else ""
    return (
        f"{report.kind.name} in {name_of(report.tag)}, offset {report.offset + first}, line "
        f"{report.line}{more}{_bytes(report, first)}; found by {report.by.name} (operation "
        f"{report.number}), the last on that line was {report.last.name} (operation "
        f"{report.last_number}); {_cause(report, name_of)}"
    )


def first_difference(expected: bytes, seen: bytes) -> int | None:
    """Return where two pieces of one length begin to differ; None where they do not."""
    pairs = zip(expected, seen, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), None)


def _bytes(report: CacheReport, first: int) -> str:
    expected, seen = report.expected, report.seen
    if not expected and not seen:
        return ""
    if expected == seen:
        return f"; the {len(seen)} bytes from there on are alike"
    behind = 1 + max(
        at for at, (one, other) in enumerate(zip(expected, seen, strict=False)) if one != other
    )
    return f"; expected {_shown(expected[first:behind])}, seen {_shown(seen[first:behind])}"


def _shown(data: bytes) -> str:
    return data[:_SHOWN].hex(" ") + (" ..." if len(data) > _SHOWN else "")


def _cause(report: CacheReport, name_of: Callable[[int], str]) -> str:
    missing = report.missing
    if missing is CacheMissingCall.NONE_LINE_IS_SHARED:
        other = (
            "another part of the same buffer"
            if report.other == report.tag
            else f"those of {name_of(report.other)}"
        )
        return (
            f"no sync is missing: these bytes are {other}, in one cache line with the bytes that "
            f"{report.by.name} was for; give each lines of its own"
        )
    if missing is CacheMissingCall.NONE_DIRECTION_IS_OUT:
        return (
            "no sync is missing: the buffer's direction is Out, for which sync_for_cpu() "
            "invalidates nothing, and the device has written to it; make it In or InOut"
        )
    came = ""
    wrong = missing is CacheMissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION
    if wrong and report.kind is not CacheReportKind.WRONG_DIRECTION:
        came = "sync_for_cpu() came, for a direction in which it invalidates nothing; "
    return f"{came}missing: {_MISSING[missing]}"
