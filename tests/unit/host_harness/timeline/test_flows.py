# SPDX-License-Identifier: Apache-2.0
"""Flows: a map, a doorbell, the requests that follow, and their interrupt."""

from __future__ import annotations

from pathlib import Path

from dma_rehearsal.host_harness.timeline.timeline import Timeline
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import at, driver_map
from tests.unit.host_harness.traces import request


def flows(found: Timeline) -> list[tuple[str, str, str]]:
    """The kind of each flow, and the classes of its events."""
    return [
        (
            each.kind,
            type(found.events[each.source]).__name__,
            type(found.events[each.target]).__name__,
        )
        for each in found.flows
    ]


def test_from_the_map_to_the_interrupt(tmp_path: Path) -> None:
    events = [
        at(1, driver_map(), test=None),
        at(3, request(1, moved=64), test=None),
        at(4, runs.interrupt()),
        at(5, runs.interrupt()),
    ]
    runs.write_trace(tmp_path, events)
    runs.write_accesses(
        tmp_path,
        runs.named(0, "exerciser"),
        runs.register(0, 8, "GO", acts=True),
        runs.access(2, 8, 1),
    )
    assert flows(Timeline.of(tmp_path)) == [
        ("doorbell to DMA", "RegisterAccess", "Dma"),
        ("map to DMA", "DriverCall", "Dma"),
        ("DMA to interrupt", "Dma", "Interrupt"),
    ]


def test_another_function_and_a_reset_are_apart(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, request(1, (0x9000, 4), moved=4), test=None),
        at(2, runs.interrupt("peer")),
        at(3, {"device": "exerciser", "test": None, "event": "reset", "kind": "by the device"}),
        at(4, runs.interrupt()),
    )
    assert flows(found) == []


def test_a_read_and_a_plain_register_start_nothing(tmp_path: Path) -> None:
    runs.write_trace(tmp_path, [at(5, request(1, (0x9000, 4), moved=4), test=None)])
    runs.write_accesses(
        tmp_path,
        runs.named(0, "exerciser"),
        runs.register(0, 8, "GO", acts=True),
        runs.access(1, 8, 1, write=False),
        runs.access(2, 12, 1),
    )
    assert flows(Timeline.of(tmp_path)) == []
