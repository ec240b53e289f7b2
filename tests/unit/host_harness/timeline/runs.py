# SPDX-License-Identifier: Apache-2.0
"""Folders of runs for tests of the timeline: traces, accesses and the host's events, by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dma_rehearsal.device.layout.access_records import ACCESS_MAGIC, AccessKind, AccessRecord
from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.machine import device_process
from dma_rehearsal.host_harness.timeline import host_events
from dma_rehearsal.host_harness.timeline.timeline import Timeline

RING = "suite/test_x.py::test_ring"
TAG = 0x8000_0001


def at(time: float, event: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An event at another time, in seconds, with other facts."""
    return {**event, "time": time, **more}


def driver_map(
    address: int = 0x1000, length: int = 64, *, tag: int = TAG, direction: str = "IN", **more: Any
) -> dict[str, Any]:
    """A kernel driver's map, granted."""
    return {
        "device": "platform",
        "test": None,
        "event": "driver map",
        "tag": hex(tag),
        "of": None,
        "call": "MAP_PAGE",
        "id": 1,
        "address": hex(address),
        "length": length,
        "direction": direction,
        "owner": hex(MAIL_OWNER_BASE | tag),
        "callers": ["0xffff0001"],
        **more,
    }


def driver_unmap(tag: int = TAG) -> dict[str, Any]:
    """Its unmap."""
    return {
        "device": "platform",
        "test": None,
        "event": "driver unmap",
        "tag": hex(tag),
        "call": "UNMAP_PAGE",
        "owner": hex(MAIL_OWNER_BASE | tag),
        "count": 1,
        "callers": [],
    }


def driver_sync(tag: int = TAG, offset: int = 0, length: int = 16) -> dict[str, Any]:
    """A sync for the CPU."""
    return {
        "device": "platform",
        "test": None,
        "event": "driver sync",
        "tag": hex(tag),
        "call": "SYNC_SINGLE_FOR_CPU",
        "to": "CPU",
        "offset": offset,
        "length": length,
        "direction": "IN",
        "callers": [],
    }


def interrupt(device: str = "exerciser", vector: int = 3) -> dict[str, Any]:
    """An MSI-X message."""
    return {"device": device, "test": None, "event": "msi-x", "vector": vector}


def write_trace(folder: Path, events: Sequence[dict[str, Any] | str]) -> None:
    """Write a trace; text is a line as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [each if isinstance(each, str) else json.dumps(each) for each in events]
    (folder / device_process.TRACE).write_text("".join(f"{line}\n" for line in lines))


def write_accesses(folder: Path, *records: tuple[AccessRecord, str] | bytes) -> None:
    """Write accesses, with their text; bytes as they are."""
    parts = [
        each if isinstance(each, bytes) else each[0].pack() + each[1].encode() for each in records
    ]
    (folder / device_process.ACCESSES).write_bytes(ACCESS_MAGIC + b"".join(parts))


def named(number: int, name: str) -> tuple[AccessRecord, str]:
    """The name of a function."""
    return AccessRecord(0, 0, 0, 0, 0, len(name), number, AccessKind.FUNCTION, 0), name


def register(number: int, offset: int, name: str, *, acts: bool) -> tuple[AccessRecord, str]:
    """The name of a register of BAR0."""
    kind = AccessKind.REGISTER
    return AccessRecord(0, offset, int(acts), 0, 0, len(name), number, kind, 0), name


def access(
    time: float, offset: int, value: int, *, write: bool = True, count: int = 1, function: int = 0
) -> tuple[AccessRecord, str]:
    """An access of 4 bytes to BAR0."""
    kind = AccessKind.WRITE if write else AccessKind.READ
    return AccessRecord(round(time * 1e9), offset, value, count, 0, 4, function, kind, 0), ""


def write_host(folder: Path, *events: dict[str, Any]) -> None:
    """Write the host's events."""
    text = "".join(json.dumps(each) + "\n" for each in events)
    (folder / host_events.FILE).write_text(text)


def timeline(folder: Path, *events: dict[str, Any] | str) -> Timeline:
    """The timeline of a run with this trace."""
    write_trace(folder, events)
    return Timeline.of(folder)
