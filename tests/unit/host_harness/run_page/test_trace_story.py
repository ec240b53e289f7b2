# SPDX-License-Identifier: Apache-2.0
"""The events of a failed test, and the rights that it met, in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.run_page import trace_story
from dma_rehearsal.host_harness.run_page.trace_story import Story
from tests.unit.host_harness.run_page.run_folders import (
    BUFFER,
    EVENTS,
    TEST,
    event,
    request,
)


def story(place: Path, *events: Any) -> Story:
    path = place / "device-trace.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    return trace_story.read(path, [TEST])[TEST]


def said(own: Story) -> str:
    return "\n".join(moment.what for _, moment in own.kept)


def test_a_refusal_and_the_grants_around_it(tmp_path: Path) -> None:
    own = story(tmp_path, *EVENTS)
    refused = own.kept[-1][1]
    assert refused.what == "reads memory: 64 bytes at 0xc010fc1. REFUSED: PROTECTION_PAST_END"
    assert (refused.red, refused.at_fault) == (True, BUFFER + 4096)
    assert [(span.first, span.moment.opens) for span in own.spans] == [
        (-1, "grant 6"),
        (0, "grant 7"),
    ]


def test_rights_that_ended_before_the_test_are_not_shown(tmp_path: Path) -> None:
    gone = event(
        0.9,
        "platform",
        "withdraw",
        None,
        id=6,
        address=hex(BUFFER - 4096),
        length=4096,
        direction="IN",
        owner="0x5",
    )
    own = story(tmp_path, *EVENTS[:2], gone, *EVENTS[2:])
    assert [span.moment.opens for span in own.spans] == ["grant 7"]
    owners = event(0.9, "platform", "withdraw owner", None, owner="0x5", count=1)
    own = story(tmp_path, *EVENTS[:2], owners, *EVENTS[2:])
    assert [span.moment.opens for span in own.spans] == ["grant 7"]


def test_dma_that_no_grant_permits_is_told(tmp_path: Path) -> None:
    wrong = request(3, BUFFER, 64, write=True)
    assert "NO GRANT IN FORCE PERMITS THIS" in said(story(tmp_path, *EVENTS, wrong))
    right = request(3, BUFFER, 4096)
    assert "NO GRANT" not in said(story(tmp_path, *EVENTS, right))
    # With the unit off, nothing needs a grant.
    assert "NO GRANT" not in said(story(tmp_path, *EVENTS[1:], wrong))


def test_a_cache_report_is_at_its_bytes(tmp_path: Path) -> None:
    runs = [{"va": 4096, "physical": BUFFER, "length": 4096, "pat_index": 0, "effective": "WB"}]
    report: dict[str, Any] = {
        "kind": "CPU_BYTES_LOST",
        "missing": "NONE_LINE_IS_SHARED",
        "tag": 9,
        "other": 10,
        "offset": 64,
        "line": 1,
        "lines": 1,
        "by": "SYNC_FOR_CPU",
        "number": 16,
        "last": "NO_SNOOP_WRITE",
        "last_number": 15,
        "expected": "00" * 64,
        "seen": "00" * 60 + "11" * 4,
    }
    own = story(
        tmp_path,
        event(1.0, "platform", "tracked", tag=9, runs=runs),
        event(1.1, "platform", "cache report", **report),
    )
    found = own.kept[-1][1]
    assert found.ranges == ((BUFFER + 64, 64),)
    assert "from offset 124" in found.what
    assert found.report == (bytes(64), bytes(60) + b"\x11" * 4)


@pytest.mark.parametrize("command", ["UNTRACK", "CONFIGURE"])
def test_tracks_end(tmp_path: Path, command: str) -> None:
    runs = [{"va": 0, "physical": BUFFER, "length": 4096, "pat_index": 0, "effective": "UC"}]
    own = story(
        tmp_path,
        event(1.0, "platform", "tracked", tag=9, runs=runs),
        event(1.1, "platform", "cache", command=command, tag=9, offset=0, length=4096),
    )
    assert [span.last for span in own.spans] == [1]


def test_a_long_test_keeps_its_beginning_its_refusals_and_its_end(tmp_path: Path) -> None:
    events = [request(number, BUFFER, 64) for number in range(30_000)]
    events[5000] = request(5000, 64, 64, reason="UNMAPPED")
    events[25_000] = request(25_000, 128, 64, reason="UNMAPPED")
    own = story(tmp_path, *events)
    positions = [at for at, _ in own.kept]
    assert own.count == 30_000
    assert {0, 5000, 25_000} <= set(positions)
    assert positions == sorted(set(positions))
    assert len(positions) < 150


def test_events_that_nobody_writes_are_counted(tmp_path: Path) -> None:
    own = story(
        tmp_path,
        *EVENTS,
        event(2.0, "ring", "request", sequence=1, write=True),
        event(2.0, "ring", "grant", id={}),
        event(2.0, "platform", "cache report", kind=[]),
    )
    assert own.unreadable == 3


def test_no_trace(tmp_path: Path) -> None:
    assert trace_story.read(tmp_path / "device-trace.jsonl", [TEST]) == {}
