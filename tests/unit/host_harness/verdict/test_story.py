# SPDX-License-Identifier: Apache-2.0
"""The story of a failed test: promises that are not kept, and requests as the trace has them."""

from __future__ import annotations

from dma_rehearsal.host_harness.verdict import story
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.promise import Promise
from tests.unit.host_harness import traces

BROKEN = Promise("alignment", "64 bytes", "low bits 4", "broken", "not aligned", "t")
KEPT = Promise("direction", "out", "read", "kept", "", "t")


def test_asked_seen_and_the_requests() -> None:
    nearest = traces.facts(0x1000, 4096)
    evidence = Evidence.of(
        [
            traces.request(1, write=False, moved=64),
            traces.request(
                2,
                (0x1000, 32),
                (0x2000, 32),
                reason="PROTECTION_PAST_END",
                byte=0x2000,
                moved=32,
                nearest=nearest,
            ),
        ],
        newest=0,
    )
    assert story.lines(evidence, [KEPT, BROKEN]) == [
        "broken: alignment",
        "  asked: 64 bytes",
        "  seen: low bits 4",
        "  why: not aligned",
        "requests to memory: 2, of which 1 were refused",
        "  1. exerciser reads 64 bytes at 0x1000: moved 64",
        "  2. exerciser writes 64 bytes at 0x1000 in 2 ranges: PROTECTION_PAST_END at byte 0x2000, "
        "32 moved before",
        f"       nearest grant: {nearest['direction']}, 4096 bytes at 0x1000",
    ]


def test_test_without_requests_says_so() -> None:
    assert story.lines(Evidence.of([]), []) == ["no device asked for memory during this test"]
    assert story.lines(None, [BROKEN])[0] == "broken: alignment"


def test_of_many_the_refused_ones_and_the_last_ones() -> None:
    events = [
        traces.request(number, reason="UNMAPPED" if number == 3 else "NONE", moved=64)
        for number in range(1, 101)
    ]
    found = story.lines(Evidence.of(events, newest=0), [BROKEN] * 50)
    told = [line.split(".")[0].strip() for line in found if "exerciser" in line]
    assert told == ["3", *map(str, range(91, 101))]
    assert "  and 89 more requests in device-trace.jsonl" in found
    assert "  and 40 more promises in attestations.json" in found
