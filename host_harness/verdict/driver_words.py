# SPDX-License-Identifier: Apache-2.0
"""The words about a kernel driver's mistakes: what is wrong, the buffer, the call, what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dma_rehearsal.device.layout import CacheMissingCall
from dma_rehearsal.device.layout.cache_words import report_words
from dma_rehearsal.device.layout.driver_reports import (
    DRIVER_REPORT_WORDS,
    DriverReportKind,
    DriverReportWords,
)
from dma_rehearsal.device.layout.mailbox import DmaCall
from dma_rehearsal.host_harness.verdict import cache_reports
from dma_rehearsal.host_harness.verdict.driver_mappings import (
    LINUX_DIRECTIONS,
    Mapping,
    function_of,
)
from dma_rehearsal.host_harness.verdict.driver_view import Mistake
from dma_rehearsal.host_harness.verdict.evidence import Event, number

Name = Callable[[Sequence[int]], str]
"""Names the driver's place among callers."""
# The allocator's words of the cache model, and Linux's.
_LINUX = {
    "sync_for_device()": "dma_sync_*_for_device()",
    "sync_for_cpu()": "dma_sync_*_for_cpu()",
    "the buffer's direction is Out": "the mapping's direction is DMA_TO_DEVICE",
    "make it In or InOut": "make it DMA_FROM_DEVICE or DMA_BIDIRECTIONAL",
}
_CACHE_NEXT = {
    CacheMissingCall.SYNC_FOR_DEVICE_AFTER_STORE: (
        "call dma_sync_single_for_device() after the CPU's last store and before the doorbell, or "
        "store before the map"
    ),
    CacheMissingCall.SYNC_FOR_DEVICE_BEFORE_RECEIVE: (
        "call dma_sync_single_for_device() before the buffer goes back to the device"
    ),
    CacheMissingCall.SYNC_FOR_CPU_BEFORE_STORE: (
        "call dma_sync_single_for_cpu(), or unmap, before the CPU stores to a buffer that the "
        "device had"
    ),
    CacheMissingCall.SYNC_FOR_CPU_AFTER_RECEIVE: (
        "call dma_sync_single_for_cpu(), or unmap, before the CPU reads what the device wrote"
    ),
    CacheMissingCall.SYNC_WITH_THE_BUFFERS_DIRECTION: "pass the mapping's direction to the sync",
    CacheMissingCall.SYNC_FOR_DEVICE_AGAIN: (
        "call dma_sync_single_for_device() once more, after the store"
    ),
    CacheMissingCall.NONE_LINE_IS_SHARED: (
        "give each a cache line of its own: memory of its own, or ____cacheline_aligned"
    ),
    CacheMissingCall.NONE_DIRECTION_IS_OUT: "map it DMA_FROM_DEVICE or DMA_BIDIRECTIONAL",
}
_DIRECTIONS = ("", "IN", "OUT", "IN_OUT")  # GrantDirection
_CALLS = {int(each): each.name for each in DmaCall}


def buffer(mapping: Mapping, name: Name, operations: int | None = None) -> str:
    """Return a mapping in one line: the call, bytes, address, direction, and who made it.

    ``operations`` are those so far, by which the end of one that has ended is told.
    """
    parts = f" in {len(mapping.ranges)} segments" if len(mapping.ranges) > 1 else ""
    text = (
        f"{function_of(mapping.call)}: {mapping.length} bytes at {mapping.address:#x}{parts}, "
        f"{LINUX_DIRECTIONS.get(mapping.direction, mapping.direction)}, made by "
        f"{name(mapping.callers)}"
    )
    if mapping.ended:
        by = function_of(mapping.ended_by)
        ago = "" if operations is None else _ago(operations - mapping.ended)
        text += f", undone by {by} in {name(mapping.ended_callers)}{ago}"
    return text


def _ago(operations: int) -> str:
    if operations <= 0:
        return ", just before"
    return f", {operations} operation{'s' * (operations > 1)} ago"


def report(mistake: Mistake, name: Name) -> list[str]:
    """Return the lines about a report of the driver's use of the DMA API; the last says next."""
    event, mapping = mistake.event, mistake.mapping
    kind = str(event["kind"])
    words = _words(kind)
    lines = [f"{kind} by {name(mistake.callers)}: {words.description}"]
    if call := function_of(mistake.call):
        lines.append(f"  call: {call}")
    if mapping is not None:
        lines.append(f"  buffer: {buffer(mapping, name, mistake.operations)}")
    elif number(event["length"]):
        lines.append(f"  there: {event['length']} bytes at {event['address']}")
    if seen := _values(words, event):
        lines.append(f"  seen: {seen}")
    return [*lines, f"  next: {words.next}"]


def cache_report(mistake: Mistake, name: Name) -> list[str]:
    """Return the lines about a report of the cache model; the last says what to do next."""
    found = cache_reports.report_of(mistake.event)
    known = {found.tag: mistake.mapping, found.other: mistake.other or mistake.mapping}

    def name_of(tag: int) -> str:
        mapping = known.get(tag)
        if mapping is None:
            return f"buffer {tag:#x}"
        return f"the buffer of {function_of(mapping.call)} made by {name(mapping.callers)}"

    said = report_words(found, name_of)
    for ours, linux in _LINUX.items():
        said = said.replace(ours, linux)
    lines = [said]
    if mistake.mapping is not None:
        lines.append(f"  buffer: {buffer(mistake.mapping, name, mistake.operations)}")
    if mistake.callers:
        call = function_of(mistake.call)
        lines.append(f"  call: {call} by {name(mistake.callers)}, which found it")
    return [*lines, f"  next: {_CACHE_NEXT[found.missing]}"]


def _words(kind: str) -> DriverReportWords:
    try:
        return DRIVER_REPORT_WORDS[DriverReportKind[kind]]
    except KeyError:
        return DriverReportWords("a report of a kind that the host does not know", "update it")


def _values(words: DriverReportWords, event: Event) -> str:
    pairs = zip(words.values, event["values"], strict=False)
    return ", ".join(f"{name}: {_value(name, number(each))}" for name, each in pairs if name)


def _value(name: str, value: int) -> str:
    if "direction" in name and 0 <= value < len(_DIRECTIONS):
        return LINUX_DIRECTIONS[_DIRECTIONS[value]]
    if name.startswith("call"):
        return function_of(_CALLS.get(value, str(value)))
    return hex(value) if "address" in name or "mask" in name else str(value)
