# SPDX-License-Identifier: Apache-2.0
"""Claims are judged by the trace alone: each kind kept, and beside it what breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict import claims
from dma_rehearsal.host_harness.verdict.claim_judge import NO_WALK, NOTHING_MOVED, Finding, judge
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from tests.unit.host_harness import traces
from tests.unit.host_harness.traces import request

START = 0x10000
ON = traces.protection(enabled=True)


def claim(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "promise": "p",
        "kind": kind,
        "asked": "a",
        "buffer": "rx",
        "made": "test_x.py:3",
        "ranges": [[START, 8192]],
        "first": 10,
        **changes,
    }


def judged(said: dict[str, Any], *events: dict[str, Any], iommu: bool = False) -> Finding:
    (parsed,) = claims.claims([("claim", said)])
    return judge(parsed, Evidence.of(events), iommu=iommu)


def writes(sequence: int, start: int, length: int = 4096, **more: Any) -> dict[str, Any]:
    return request(sequence, (start, length), **{"moved": length, **more})


def reads(sequence: int, start: int, length: int = 4096) -> dict[str, Any]:
    return writes(sequence, start, length, write=False)


# Direction.


@pytest.mark.parametrize(
    ("direction", "events"),
    [
        ("kIODirectionIn", [writes(11, START)]),
        ("kIODirectionOut", [reads(11, START)]),
        ("kIODirectionInOut", [reads(11, START), writes(12, START)]),
    ],
)
def test_direction_in_which_bytes_moved_is_kept(direction: str, events: list[Any]) -> None:
    found = judged(claim("direction", direction=direction), *events)
    assert found.verdict == "kept"
    assert "4096 of 8192 bytes at 0x10000, 1 DMA by exerciser" in found.attested


@pytest.mark.parametrize(
    ("direction", "events", "verdict", "reason"),
    [
        ("kIODirectionIn", [], "unattested", NOTHING_MOVED),
        ("kIODirectionIn", [writes(11, START, moved=0)], "unattested", NOTHING_MOVED),
        ("kIODirectionIn", [writes(11, START + 8192)], "unattested", NOTHING_MOVED),
        ("kIODirectionIn", [writes(10, START)], "unattested", NOTHING_MOVED),
        ("kIODirectionIn", [writes(21, START)], "unattested", NOTHING_MOVED),
        ("kIODirectionInOut", [writes(11, START)], "unattested", "no DMA read a byte of it"),
        ("kIODirectionInOut", [reads(11, START)], "unattested", "no DMA wrote a byte of it"),
        ("kIODirectionIn", [writes(11, START), reads(12, START, 1)], "broken", "read 1 bytes"),
        ("kIODirectionOut", [writes(11, START + 8191, 64)], "broken", "wrote 1 bytes"),
    ],
)
def test_direction_without_it(direction: str, events: list[Any], verdict: str, reason: str) -> None:
    found = judged(claim("direction", direction=direction, last=20), *events)
    assert found.verdict == verdict
    assert reason in found.reason


def test_refused_dma_moves_nothing() -> None:
    event = request(11, (START, 64), write=False, reason="PROTECTION_DIRECTION")
    found = judged(claim("direction", direction="kIODirectionIn"), event)
    assert (found.verdict, found.reason) == ("unattested", NOTHING_MOVED)


def test_bytes_are_counted_once_and_devices_named() -> None:
    found = judged(
        claim("direction", direction="kIODirectionIn"),
        writes(11, START, 100),
        writes(12, START + 50, 100, device="peer"),
        writes(13, START + 4096, 10),
    )
    assert found.attested == (
        "wrote 160 of 8192 bytes at 0x10000, 0x11000, 3 DMAs by exerciser, peer"
    )


@pytest.mark.parametrize(("sequence", "kept"), [(10, False), (11, True), (20, True), (21, False)])
def test_dma_of_the_claims_own_time_counts(sequence: int, kept: bool) -> None:
    said = claim("direction", direction="kIODirectionIn", first=10, last=20)
    assert (judged(said, writes(sequence, START)).verdict == "kept") == kept


def test_last_may_be_left_out() -> None:
    said = claim("direction", direction="kIODirectionIn")
    assert judged(said, writes(1 << 40, START)).verdict == "kept"


def test_a_list_that_is_not_told_to_its_end_is_no_evidence_against_anything() -> None:
    """Its other ranges may be anywhere: the wrong way, or in what was released."""
    elsewhere = writes(12, START + (1 << 20), 64) | {"more": 3}
    out, into = (claim("direction", direction=f"kIODirection{way}") for way in ("Out", "In"))
    found = judged(out, reads(11, START), elsewhere)
    assert (found.verdict, "request 12" in found.reason) == ("unattested", True)
    assert judged(into, writes(11, START), elsewhere).verdict == "kept"
    assert judged(RELEASED, ON, MARK, elsewhere).verdict == "unattested"
    assert judged(RELEASED, ON, elsewhere, MARK).verdict == "kept"


# Contiguity.

WALK = traces.witness((0x7F0000, START, 8192, "WB"))


def test_contiguous_where_every_page_was_touched() -> None:
    found = judged(claim("contiguous"), writes(11, START, 1), writes(12, START + 4096, 1))
    assert found.verdict == "kept"
    assert found.attested.startswith("2 of 2 pages from 0x10000")


def test_page_that_no_dma_touched_is_unattested() -> None:
    found = judged(claim("contiguous"), writes(11, START))
    assert (found.verdict, found.reason) == ("unattested", "DMA touched 1 of its 2 pages")
    assert judged(claim("contiguous")).reason == NOTHING_MOVED


def test_several_ranges_are_not_contiguous() -> None:
    said = claim("contiguous", ranges=[[START, 4096], [START + 0x9000, 4096]])
    found = judged(said, writes(11, START), writes(12, START + 0x9000))
    assert found.verdict == "broken"
    assert "2 ranges, at 0x10000, 0x19000" in found.reason


@pytest.mark.parametrize(
    ("walk", "verdict"),
    [
        (WALK, "kept"),
        # A change of page size or type is not a gap.
        (
            traces.witness((0x7F0000, START, 4096, "WB"), (0x7F1000, START + 4096, 4096, "UC")),
            "kept",
        ),
        (
            traces.witness((0x7F0000, START, 4096, "WB"), (0x7F1000, START + 8192, 4096, "WB")),
            "broken",
        ),
        (traces.witness((0x7F0000, START + 4096, 8192, "WB")), "broken"),
        (traces.witness((0x7F0000, START, 4096, "WB")), "unattested"),
        (traces.witness((0x7F0000, START, 8192, "WB"), status="NOT_PRESENT"), "unattested"),
    ],
)
def test_contiguity_with_the_page_tables(walk: dict[str, Any], verdict: str) -> None:
    said = claim("contiguous", va=0x7F0000, length=8192)
    found = judged(said, writes(11, START, 8192), walk)
    assert found.verdict == verdict
    assert ("one physical run" in found.attested) == (verdict == "kept")


def test_bus_addresses_behind_an_iommu_are_not_physical() -> None:
    said = claim("contiguous", va=0x7F0000, length=8192)
    assert judged(said, writes(11, START, 8192), iommu=True).verdict == "kept"
    assert judged(said, writes(11, START, 8192)).reason == NO_WALK


def test_pages_of_a_range_that_begins_within_one() -> None:
    said = claim("contiguous", ranges=[[START + 0x800, 4096]], va=0x7F0800, length=4096)
    found = judged(said, writes(11, START + 0x800), WALK)
    assert found.verdict == "kept"
    assert "2 of 2 pages" in found.attested


# Alignment.


@pytest.mark.parametrize(
    ("start", "alignment", "used", "verdict"),
    [
        (START, 4096, START, "kept"),
        (START, 1 << 16, START, "kept"),
        (START, 1 << 17, START, "broken"),
        (START + 8, 16, START + 8, "broken"),
        (START, 4096, START + 64, "unattested"),
        (START, 4096, START - 64, "unattested"),
    ],
)
def test_alignment(start: int, alignment: int, used: int, verdict: str) -> None:
    said = claim("alignment", alignment=alignment, ranges=[[start, 256]])
    found = judged(said, writes(11, used, 128))
    assert found.verdict == verdict
    if verdict == "broken":
        assert "above a multiple of 0x" in found.reason


def test_alignment_of_a_buffer_that_follows_another_one_in_a_list() -> None:
    said = claim("alignment", alignment=4096, ranges=[[START, 256]])
    both = traces.request(11, (START - 256, 256), (START, 256), moved=512, write=True)
    assert judged(said, both).verdict == "kept"


# Release.

RELEASED = claim("released", mark=5)
MARK = traces.mark(5)


def test_released_without_grant_and_dma() -> None:
    withdraw = traces.of_platform("withdraw", **traces.facts(START, 8192))
    before = [ON, traces.grant(START, 8192), writes(11, START), withdraw]
    found = judged(RELEASED, *before, MARK, writes(12, START + 8192))
    assert found.verdict == "kept"


def test_the_released_buffers_own_grant_does_not_end_the_watch() -> None:
    withdraw = traces.of_platform("withdraw", **traces.facts(START, 8192))
    late = traces.protection(enabled=False), writes(12, START, 64)
    found = judged(RELEASED, ON, traces.grant(START, 8192), withdraw, MARK, *late)
    assert (found.verdict, "wrote 64 bytes" in found.reason) == ("broken", True)


@pytest.mark.parametrize(
    ("events", "verdict", "reason"),
    [
        ([ON, traces.grant(START + 8191, 64), MARK], "broken", "IN 64 bytes at 0x11fff"),
        ([ON, traces.grant(START + 8192, 64), MARK], "kept", ""),
        ([ON, traces.grant(START - 64, 64), MARK], "kept", ""),
        ([ON, MARK, writes(12, START + 100, 1)], "broken", "wrote 1 bytes at 0x10064 after rx"),
        ([ON, MARK, writes(12, START, moved=0)], "kept", ""),
        ([ON, MARK, traces.grant(START, 64), writes(12, START, 64)], "kept", ""),
        ([ON, MARK, traces.grant(START + 8192, 64), writes(12, START, 64)], "broken", "wrote 64"),
        ([ON, traces.mark(4)], "unattested", "no mark 5"),
        ([MARK], "unattested", "the protection unit was off"),
        ([ON, traces.protection(enabled=False), MARK], "unattested", "was off"),
    ],
)
def test_released(events: list[Any], verdict: str, reason: str) -> None:
    found = judged(RELEASED, *events)
    assert (found.verdict, reason in found.reason) == (verdict, True)


# Cache modes.

MODE = claim("cache", promise="kIOMapInhibitCache", va=0x7F0000, length=8192, mode="UC", ranges=[])


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ([traces.witness((0x7F0000, START, 8192, "UC"))], "kept"),
        ([traces.witness((0x7F0000, START, 4096, "UC"), (0x7F1000, 0, 4096, "UC"))], "kept"),
        ([traces.witness((0x7F0000, START, 4096, "UC"), (0x7F1000, 0, 4096, "WB"))], "broken"),
        ([traces.witness((0x7F0000, START, 8192, "WB"))], "broken"),
        ([traces.witness((0x7F0000, START, 4096, "UC"))], "unattested"),
        ([traces.witness((0x7F0000, START, 8192, "UC"), status="NOT_PRESENT")], "unattested"),
        ([], "unattested"),
    ],
)
def test_cache_mode(events: list[Any], verdict: str) -> None:
    found = judged(MODE, *events)
    assert found.verdict == verdict
    effective = {"mode": "kIOMapInhibitCache", "effective": "UC"}
    assert found.facts == (effective if verdict == "kept" else {})


def test_mark_names_the_walk_that_is_meant() -> None:
    """The same addresses can be another mapping later in the test."""
    first, second = (traces.witness((0x7F0000, START, 8192, kind)) for kind in ("UC", "WB"))
    events = [first, traces.mark(1), second, traces.mark(2)]
    assert judged({**MODE, "mark": 1}, *events).verdict == "kept"
    assert judged({**MODE, "mark": 2}, *events).verdict == "broken"
    assert judged(MODE, *events).verdict == "broken", "without a mark all must agree"


# Hostile words.


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "hope"},
        {"kind": ["direction"]},
        {"promise": ""},
        {"promise": 3},
        {"asked": "x" * 1000},
        {"ranges": []},
        {"ranges": [[0, 0]]},
        {"ranges": [[-1, 4]]},
        {"ranges": [[1, 2, 3]]},
        {"ranges": [[True, 4]]},
        {"ranges": [[(1 << 64) - 1, 2]]},
        {"ranges": "all"},
        {"first": -1},
        {"first": "1"},
        {"last": 1 << 64},
        {"direction": "sideways"},
        {"direction": ""},
        {"mode": "XX"},
    ],
)
def test_claim_that_cannot_be(changes: dict[str, Any]) -> None:
    sound = claim("direction", direction="kIODirectionIn")
    assert claims.claims([("claim", sound)])
    with pytest.raises(GuestProtocolError):
        claims.claims([("claim", {**sound, **changes})])


@pytest.mark.parametrize("kind", ["alignment", "released", "cache", "direction"])
def test_kind_needs_its_fields(kind: str) -> None:
    with pytest.raises(GuestProtocolError, match=f"{kind} needs"):
        claims.claims([("claim", claim(kind))])


def test_claims_are_few_and_their_ranges_too() -> None:
    with pytest.raises(GuestProtocolError, match="claims in one test"):
        claims.claims([("claim", claim("contiguous"))] * (claims.MAX + 1))
    many = claim("contiguous", ranges=[[0, 1]] * claims.RANGES_MAX)
    with pytest.raises(GuestProtocolError, match="too many ranges"):
        claims.claims([("claim", many), ("claim", many)])


def test_words_have_no_escape_sequences() -> None:
    (found,) = claims.claims([("claim", claim("contiguous", buffer="\x1b[31mrx"))])
    assert found.buffer == "rx"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(sorted(claim("cache", va=1, length=1, mode="UC"))), JSON)
def test_any_claim_is_judged_or_refused(name: str, value: object) -> None:
    try:
        found = judged({**claim("cache", va=1, length=1, mode="UC"), name: value}, WALK)
    except GuestProtocolError:
        return
    assert found.verdict in ("kept", "broken", "unattested")
