# SPDX-License-Identifier: Apache-2.0
"""The Perfetto trace, read back with Perfetto's own messages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from dma_rehearsal.host_harness.timeline import perfetto_trace
from dma_rehearsal.host_harness.timeline.events import Dma, Event
from dma_rehearsal.host_harness.timeline.timeline import Timeline
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import RING, at, driver_map, driver_unmap
from tests.unit.host_harness.traces import request


def a_run(folder: Path) -> Timeline:
    runs.write_trace(
        folder,
        [
            at(1, driver_map(), test=RING),
            at(3, request(1, moved=64), test=RING),
            at(4, runs.interrupt(), test=RING),
            at(5, driver_unmap(), test=RING),
        ],
    )
    runs.write_accesses(
        folder,
        runs.named(0, "exerciser"),
        runs.register(0, 8, "SQTDBL[3]", acts=True),
        runs.access(2, 8, 1),
    )
    runs.write_host(
        folder,
        {"time": 0.5, "event": "begin", "test": RING},
        {"time": 6, "event": "end", "test": RING, "outcome": "passed"},
    )
    return Timeline.of(folder)


def packets(timeline: Timeline, events: list[Event] | None = None) -> list[Any]:
    """The packets of the trace."""
    file = io.BytesIO()
    count = perfetto_trace.write(timeline, file, events)
    trace = Trace()
    trace.ParseFromString(file.getvalue())
    assert len(trace.packet) == count
    return list(trace.packet)


def paths(found: list[Any]) -> dict[int, str]:
    """The path of each track, by its number."""
    told: dict[int, str] = {}
    for packet in found:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            name = track.name or track.process.process_name
            above = f"{told[track.parent_uuid]}/" if track.parent_uuid else ""
            assert track.uuid not in told
            told[track.uuid] = f"{above}{name}"
    return told


def test_tracks_of_tests_devices_queues_and_buffers(tmp_path: Path) -> None:
    found = packets(a_run(tmp_path))
    assert set(paths(found).values()) == {
        "VM 1",
        "VM 1/tests",
        "VM 1/platform",
        "VM 1/exerciser",
        "VM 1/exerciser/SQTDBL[3]",
        "VM 1/exerciser/interrupts",
        "VM 1/buffers",
        "VM 1/buffers/buffer 1",
    }


def test_slices_begin_and_end(tmp_path: Path) -> None:
    found = packets(a_run(tmp_path))
    names = paths(found)
    slices = [
        (names[each.track_event.track_uuid], each.track_event.type, each.timestamp)
        for each in found
        if each.HasField("track_event") and each.track_event.type != TrackEvent.TYPE_INSTANT
    ]
    begin, end = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END
    assert slices == [
        ("VM 1/tests", begin, 0),
        ("VM 1/buffers/buffer 1", begin, 500_000_000),
        ("VM 1/buffers/buffer 1", end, 4_500_000_000),
        ("VM 1/tests", end, 5_500_000_000),
    ]


def test_flows_lead_from_the_map_to_the_interrupt(tmp_path: Path) -> None:
    found = [each.track_event for each in packets(a_run(tmp_path)) if each.HasField("track_event")]
    begins = {flow: each.name for each in found for flow in each.flow_ids}
    ends = {flow: each.name for each in found for flow in each.terminating_flow_ids}
    arrows = sorted((begins[flow], ends[flow]) for flow in begins)
    assert arrows == [
        ("DMA write", "MSI-X 3"),
        ("driver", "DMA write"),
        ("write SQTDBL[3]", "DMA write"),
    ]


def test_a_part_has_no_loose_ends(tmp_path: Path) -> None:
    timeline = a_run(tmp_path)
    found = packets(timeline, list(timeline.select(kinds=Dma)))
    told = [each for each in found if each.HasField("track_event")]
    kinds = [each.track_event.type for each in told]
    assert kinds == [
        TrackEvent.TYPE_SLICE_BEGIN,  # the buffer was there before
        TrackEvent.TYPE_INSTANT,
        TrackEvent.TYPE_SLICE_END,
    ]
    assert not any(each.track_event.flow_ids for each in told)
    assert packets(timeline, []) == []


def test_details_tell_the_request(tmp_path: Path) -> None:
    refused = request(1, reason="PROTECTION_OUTSIDE", byte=0x1000)
    found = packets(runs.timeline(tmp_path, at(1, refused, test=None)))
    (told,) = (each.track_event for each in found if each.HasField("track_event"))
    assert told.name == "REFUSED write: PROTECTION_OUTSIDE"
    details = {each.name: each for each in told.debug_annotations}
    assert details["byte"].pointer_value == 0x1000
    assert details["segments"].string_value == "4096, 64"
    assert details["write"].bool_value is True
