# SPDX-License-Identifier: Apache-2.0
"""The timeline: one order of all sources, selection, tests, and files that nobody vouches for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.timeline import timeline as timeline_module
from dma_rehearsal.host_harness.timeline.events import (
    Dma,
    DriverCall,
    Interrupt,
    Lost,
    Other,
    RegisterAccess,
    TestBegins,
    TestEnds,
)
from dma_rehearsal.host_harness.timeline.timeline import Timeline, TimelineUnavailable, find_tests
from tests.unit.host_harness.timeline import runs
from tests.unit.host_harness.timeline.runs import RING, at, driver_map
from tests.unit.host_harness.traces import request


def kinds(found: Timeline) -> list[str]:
    return [type(each).__name__ for each in found.events]


def test_all_sources_are_in_one_order(tmp_path: Path) -> None:
    runs.write_trace(
        tmp_path,
        [at(10.1, driver_map(), test=RING), at(10.3, request(1, moved=64), test=RING)],
    )
    runs.write_accesses(
        tmp_path,
        runs.named(0, "exerciser"),
        runs.register(0, 8, "GO", acts=True),
        runs.access(10.2, 8, 1),
    )
    runs.write_host(
        tmp_path,
        {"time": 10.0, "event": "begin", "test": RING},
        {"time": 10.4, "event": "end", "test": RING, "outcome": "passed"},
    )
    found = Timeline.of(tmp_path)
    assert kinds(found) == ["TestBegins", "DriverCall", "RegisterAccess", "Dma", "TestEnds"]
    assert [each.index for each in found.events] == [0, 1, 2, 3, 4]
    assert [each.time_ns for each in found.events][:3] == [0, 100_000_000, 200_000_000]
    assert {each.test for each in found.events} == {RING}
    (access,) = found.select(kinds=RegisterAccess)
    assert isinstance(access, RegisterAccess)
    assert (access.device, access.register, access.doorbell) == ("exerciser", "GO", True)
    (test,) = found.tests
    assert (test.name, test.outcome, test.begin, test.end) == (RING, "passed", 0, 4)


def test_without_the_hosts_events_the_trace_tells_the_tests(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, request(1), test=None),
        at(2, request(2), test=RING),
        at(3, request(3), test=RING),
    )
    assert kinds(found) == ["Dma", "TestBegins", "Dma", "Dma", "TestEnds"]
    begins, ends = found.select(kinds=(TestBegins, TestEnds))
    assert isinstance(begins, TestBegins)
    assert isinstance(ends, TestEnds)
    assert (begins.told_by, ends.told_by, ends.outcome) == ("trace", "trace", "")


def test_a_test_that_was_lost_has_no_end(tmp_path: Path) -> None:
    runs.write_trace(tmp_path, [at(2, request(1), test=RING)])
    runs.write_host(tmp_path, {"time": 1, "event": "begin", "test": RING})
    (test,) = Timeline.of(tmp_path).tests
    assert (test.end, test.end_ns, test.outcome) == (None, None, "")


def test_selection(tmp_path: Path) -> None:
    found = runs.timeline(
        tmp_path,
        at(1, driver_map(0x1000, 64)),
        at(2, request(1, (0x1000, 8), moved=8)),
        at(3, request(2, (0x9000, 8), moved=8, device="peer")),
        at(4, runs.interrupt()),
    )
    assert [type(each) for each in found.select(memory=(0x1004, 1))] == [DriverCall, Dma]
    assert [type(each) for each in found.select(memory=(0x1008, 8))] == [DriverCall]
    assert [type(each) for each in found.select(device="peer")] == [Dma]
    assert [type(each) for each in found.select(kinds=Interrupt)] == [Interrupt]
    assert [type(each) for each in found.select(buffer=1)] == [DriverCall, Dma]
    late = found.select(since_ns=1_000_000_000, until_ns=2_000_000_000, kinds=Dma)
    assert [each.time_ns for each in late] == [1_000_000_000, 2_000_000_000]
    assert found.buffers_at((0x103F, 1)) == [found.buffer(1)]
    assert found.buffers_at((0x1040, 1)) == []
    assert found.devices() == ["platform", "host", "exerciser", "peer"]
    with pytest.raises(LookupError, match="no buffer 2: there are 1"):
        found.buffer(2)


def test_several_vms_are_one_timeline(tmp_path: Path) -> None:
    runs.write_trace(tmp_path, [at(1, driver_map()), at(3, request(1, moved=64))])
    runs.write_trace(tmp_path / "vm2", [at(2, driver_map()), at(4, request(1, moved=64))])
    found = Timeline.of(tmp_path)
    dmas = list(found.select(kinds=Dma))
    assert [each.vm for each in dmas] == [1, 2]
    assert [found.buffers_of(each)[0].vm for each in dmas] == [1, 2]
    assert [each.vm for each in found.select(vm=2)] == [2, 2, 2, 2]


def test_lines_that_are_not_events_are_counted(tmp_path: Path) -> None:
    hostile = [
        "no JSON",
        "[]",
        '{"time": "now", "device": "d", "event": "reset", "kind": "x"}',
        '{"time": 1e300, "device": "d", "event": "reset", "kind": "x"}',
        '{"time": NaN, "device": "d", "event": "reset", "kind": "x"}',
        '{"time": 1, "device": "d", "event": "request", "ranges": 7}',
        '{"time": 1, "device": "d", "event": "grant", "id": {}}',
        "[" * 100_000,
    ]
    found = runs.timeline(tmp_path, *hostile, at(1, request(1, moved=64)))
    assert sum(isinstance(each, Dma) for each in found.events) == 1
    (lost,) = found.lost()
    assert lost.count == len(hostile)


def test_numbers_are_masked_and_text_is_printable(tmp_path: Path) -> None:
    wild = at(1, request(1, (1 << 70, 1 << 70)), device="\x1b[31mred\n", attributes={"a\t": "\x07"})
    odd = {"time": 2, "device": "d", "test": None, "event": "odd \x1b[1m", "said": "\x9b" * 9999}
    found = runs.timeline(tmp_path, wild, odd)
    (dma,) = found.select(kinds=Dma)
    (other,) = found.select(kinds=Other)
    assert isinstance(dma, Dma)
    assert isinstance(other, Other)
    assert dma.segments == ((0, 0),)
    assert dma.device == "red"
    texts = [dma.device, other.name, *other.facts.values(), *dma.attributes.values()]
    assert all(each.isprintable() for each in texts)
    assert all(len(each) <= 500 for each in texts)


def test_a_source_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "EVENTS_MAX", 3)
    found = runs.timeline(tmp_path, *(at(each, request(each), test=None) for each in range(1, 8)))
    assert len(list(found.select(kinds=Dma))) == 3
    assert [(each.source, each.count) for each in found.lost()] == [("device-trace.jsonl", 4)]


def test_what_the_device_left_out_is_told(tmp_path: Path) -> None:
    full = {"time": 1, "device": "platform", "test": None, "event": "trace is full"}
    found = runs.timeline(tmp_path, full)
    assert [type(each) for each in found.events] == [Lost]


def test_a_folder_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(TimelineUnavailable, match=r"no device-trace\.jsonl"):
        Timeline.of(tmp_path)


def test_tests_are_found_by_their_name_or_a_part_of_it(tmp_path: Path) -> None:
    names = ["suite/test_a.py::test_in", "suite/test_a.py::test_in_order"]
    found = runs.timeline(tmp_path, *(at(1, request(1), test=each) for each in names))
    assert [each.name for each in find_tests(found, names[0])] == [names[0]]
    assert [each.name for each in find_tests(found, "test_in")] == names
    assert list(find_tests(found, "other")) == []
