# SPDX-License-Identifier: Apache-2.0
"""The cache model's reports that no test took: a driver's mistakes that would go unnoticed.

A test that takes a report expects it, or fails. The host finds a report that no test took, until
the test ended or the model dropped it, in the device's trace. The same goes for accesses that the
model could not check because one of its limits was reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dma_rehearsal.device.layout import (
    CacheMissingCall,
    CacheOperation,
    CacheReport,
    CacheReportKind,
)
from dma_rehearsal.device.layout.cache_words import report_words

Event = Mapping[str, Any]


def unowned(events: Iterable[Event]) -> list[str]:
    """Return a line for each report among one test's events that was not taken.

    Reports that the model had no room for, and calls that it could not track, have a line too.
    """
    waiting: list[Event] = []
    lost: list[Event] = []
    unchecked: list[str] = []
    for event in events:
        if event.get("event") == "cache report":
            waiting.append(event)
        elif event.get("event") == "cache" and event.get("command") == "TAKE_REPORTS":
            del waiting[: event["reports"]]
        elif event.get("event") == "cache" and event.get("command") == "CONFIGURE":
            lost += waiting
            waiting.clear()
        elif event.get("event") == "cache reports lost":
            unchecked.append(f"{event['count']} more, for which it had no room")
        elif event.get("event") == "cache unchecked":
            unchecked.append(
                f"{event['command']} of buffer {event['tag']:#x} is not checked: {event['why']}"
            )
    return [*map(_said, lost + waiting), *unchecked]


def complaint(lines: list[str]) -> str:
    """Return the host's objection to the test that caused these reports; empty for none."""
    if not lines:
        return ""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"no test took this report of the cache model: {lines[0]}{more}"


def report_of(event: Event) -> CacheReport:
    """Return the report of an event "cache report"."""
    return CacheReport(
        kind=CacheReportKind[event["kind"]],
        missing=CacheMissingCall[event["missing"]],
        by=CacheOperation[event["by"]],
        last=CacheOperation[event["last"]],
        tag=event["tag"],
        other=event["other"],
        line=event["line"],
        lines=event["lines"],
        offset=event["offset"],
        number=event["number"],
        last_number=event["last_number"],
        expected=bytes.fromhex(event["expected"]),
        seen=bytes.fromhex(event["seen"]),
    )


def _said(event: Event) -> str:
    return report_words(report_of(event), lambda tag: f"buffer {tag:#x}")
