# SPDX-License-Identifier: Apache-2.0
"""Evidence from the trace, announced refusals, and the message about the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict import (
    expected_refusals,
    guest_buffers,
    host_view,
    refusals,
)
from dma_rehearsal.host_harness.verdict.evidence import MARKS_MAX, Evidence, Grants, union
from tests.unit.host_harness import traces
from tests.unit.host_harness.traces import request


def expects(first: int, last: int, *reasons: str) -> tuple[str, dict[str, Any]]:
    return "expects", {"reasons": list(reasons), "first": first, "last": last}


def complaint(*events: dict[str, Any], properties: Any = ()) -> str:
    return "\n".join(host_view.look(Evidence.of(events), properties).objections)


def test_request_has_its_numbers() -> None:
    nearest = traces.facts(0x2000, 64)
    (found,) = Evidence.of(
        [request(7, (0x1000, 64), (0x3000, 32), reason="UNMAPPED", byte=0x3000, nearest=nearest)]
    ).requests
    assert (found.sequence, found.address, found.length, found.byte) == (7, 0x1000, 96, 0x3000)
    assert found.nearest is not None
    assert (found.nearest.address, found.nearest.owner) == (0x2000, 7)
    assert found.refused


@pytest.mark.parametrize(
    ("reason", "refused"),
    [("NONE", False), ("RESET", False), ("CLIENT_GONE", False), ("OWN_BAR", True)],
)
def test_ends_that_nobody_refused_are_no_refusals(reason: str, refused: bool) -> None:
    assert bool(Evidence.of([request(reason=reason)]).refusals) == refused


def test_bytes_moved_are_the_first_of_the_ranges() -> None:
    (found,) = Evidence.of([request(1, (0x1000, 64), (0x3000, 64), moved=96)]).requests
    assert found.moved_ranges() == [(0x1000, 64), (0x3000, 32)]
    assert found.moved_within([(0x1020, 0x1FF0)]) == [(0x1020, 32), (0x3000, 0x10)]
    assert found.moved_within([(0x3020, 32)]) == []


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8)


@given(RANGES)
def test_union_has_the_same_bytes(ranges: list[tuple[int, int]]) -> None:
    def bytes_of(some: list[tuple[int, int]]) -> set[int]:
        return {each for start, length in some for each in range(start, start + length)}

    found = union(ranges)
    assert bytes_of(found) == bytes_of(ranges)
    assert sum(length for _, length in found) == len(bytes_of(ranges))


def test_housekeeping_is_no_evidence() -> None:
    events = [traces.of_platform(each) for each in ("attach", "command", "power", "reset")]
    events += [traces.grant(0x1000, 64), traces.mark(3), traces.protection(enabled=True)]
    assert not Evidence.of(events).kinds
    assert Evidence.of([*events, request()]).kinds == {"request"}


def test_grants_go_on_from_test_to_test() -> None:
    unit = Grants()
    Evidence.of([traces.protection(enabled=True), traces.grant(0x1000, 64)], unit)
    held = Evidence.of([traces.mark(1)], unit).marks[1]
    assert held.protected
    assert [each.address for each in held.grants] == [0x1000]
    for end in (
        traces.of_platform("withdraw", **traces.facts(0x1000, 64)),
        traces.of_platform("withdraw owner", owner="0x7", count=1),
        traces.of_platform("reset", kind="device reset"),
    ):
        unit = Grants()
        events = [traces.protection(enabled=True), traces.grant(0x1000, 64)]
        assert Evidence.of([*events, end, traces.mark(2)], unit).marks[2].grants == ()
        other = {**end, "device": "exerciser"} if end["event"] == "reset" else {**end, "id": 9}
        other = {**other, "owner": "0x8"}
        assert Evidence.of([*events, other, traces.mark(2)], Grants()).marks[2].grants


def test_grants_of_a_kernel_drivers_mappings_are_followed() -> None:
    mapped = traces.of_platform("driver map", tag="0x80000001", **traces.facts(0x1000, 64))
    tracked = traces.of_platform("driver map", tag="0x80000002", address="0x2000", length=64)
    unmapped = traces.of_platform("driver unmap", tag="0x80000001", owner="0x7", count=1)
    untracked = traces.of_platform("driver unmap", tag="0x80000002")
    unit = Grants()
    found = Evidence.of([mapped, tracked, untracked, traces.mark(1)], unit)
    assert [each.address for each in found.marks[1].grants] == [0x1000]
    assert Evidence.of([unmapped, traces.mark(2)], unit).marks[2].grants == ()


def test_what_the_guest_tells_of_its_driver_is_no_evidence() -> None:
    names = ("driver map", "driver unmap", "driver sync", "driver report", "mail failed")
    assert not Evidence.of([traces.of_platform(each) for each in names]).kinds


def test_marks_are_few() -> None:
    found = Evidence.of(traces.mark(each) for each in range(MARKS_MAX + 10))
    assert len(found.marks) == MARKS_MAX


# Announcements.


def test_refusal_that_was_announced_is_no_complaint() -> None:
    event = request(5, reason="UNMAPPED")
    assert complaint(event, properties=[expects(4, 5, "UNMAPPED", "READ_ONLY")]) == ""


@pytest.mark.parametrize(
    "said", [expects(5, 9, "UNMAPPED"), expects(0, 4, "UNMAPPED"), expects(4, 5, "READ_ONLY")]
)
def test_refusal_before_after_or_for_another_reason_is_one(said: Any) -> None:
    found = complaint(request(5, reason="UNMAPPED"), properties=[said])
    assert "a write of 64 bytes at 0x1000 was refused: UNMAPPED" in found
    assert "no such refusal" in found, "and the announcement met nothing"


def test_announcement_that_nothing_met_is_a_complaint() -> None:
    found = complaint(request(5, moved=64), properties=[expects(4, 5, "UNMAPPED")])
    assert found.startswith("expects(UNMAPPED): the device's trace has no such refusal")
    assert "between its requests 4 and 5" in found


def test_refusal_that_the_platform_counted_and_the_trace_lacks_is_a_complaint() -> None:
    counted = [("unannounced", True)]
    found = complaint(request(5, moved=64), properties=counted)
    assert found.startswith("the platform counted a refused request that the test did not announce")
    traced = complaint(request(5, reason="UNMAPPED"), properties=counted)
    assert "the platform counted" not in traced, "the trace has it, and says more"
    assert traced


def test_one_announcement_may_have_many_refusals_and_they_may_overlap() -> None:
    events = [request(each, reason="UNMAPPED") for each in range(1, 9)]
    assert (
        complaint(*events, properties=[expects(0, 5, "UNMAPPED"), expects(3, 8, "UNMAPPED")]) == ""
    )
    assert "request 6" in complaint(*events, properties=[expects(0, 5, "UNMAPPED")])


@pytest.mark.parametrize(
    "changes",
    [
        {"reasons": []},
        {"reasons": "UNMAPPED"},
        {"reasons": ["a b"]},
        {"reasons": ["A" * 50]},
        {"reasons": [3]},
        {"first": -1},
        {"first": True},
        {"first": 9, "last": 8},
        {"last": None},
        {"last": 1 << 64},
    ],
)
def test_announcement_that_cannot_be(changes: dict[str, Any]) -> None:
    _, value = expects(1, 2, "UNMAPPED")
    host_view.check([("expects", value)])
    with pytest.raises(GuestProtocolError, match="announces a refusal that cannot be"):
        host_view.check([("expects", {**value, **changes})])


def test_announcements_are_few() -> None:
    said = [expects(1, 2, "UNMAPPED")] * (expected_refusals.MAX + 1)
    with pytest.raises(GuestProtocolError, match="times in one test"):
        host_view.check(said)


# Words.

MEMORY = {
    "address": 0x1000,
    "length": 4096,
    "name": "ring",
    "direction": "kIODirectionOut",
    "made": "test_nic.py:12",
    "released": "",
    "released_after": 0,
    "ago": 0,
}


def memory(*rows: dict[str, Any]) -> list[tuple[str, Any]]:
    return [("memory", [{**MEMORY, **each} for each in rows])]


def test_failure_says_where_why_whose_and_what_next() -> None:
    event = request(
        17, reason="PROTECTION_DIRECTION", byte=0x1000, nearest=traces.facts(0x1000, 4096)
    )
    lines = complaint(event, properties=memory({})).splitlines()
    assert lines == [
        "exerciser: a write of 64 bytes at 0x1000 was refused: PROTECTION_DIRECTION, and the test "
        "did not announce it",
        "  why: the memory is granted for the other direction (request 17)",
        "  there: ring, 4096 bytes at 0x1000, kIODirectionOut, made at test_nic.py:12",
        "  nearest grant: IN, 4096 bytes at 0x1000, owner 0x7",
        "  next: the device writes memory here, which needs kIODirectionIn or kIODirectionInOut",
        "if the refusal is intended: with expects(DmaReason.PROTECTION_DIRECTION): ... "
        "around that DMA",
    ]


def test_a_grant_for_another_function_is_told_with_both() -> None:
    nearest = traces.facts(0x1000, 4096) | {"function": "00:04.0"}
    event = request(17, reason="PROTECTION_FUNCTION", byte=0x1000, nearest=nearest)
    lines = complaint(event | {"function": "00:04.3"}).splitlines()
    assert lines[1:4] == [
        "  why: the memory is granted to 00:04.0 alone, and 00:04.3 does this DMA (request 17)",
        "  nearest grant: IN, 4096 bytes at 0x1000, owner 0x7, for 00:04.0 alone",
        "  next: grant the memory to the function that does the DMA",
    ]


def test_owner_of_the_nearest_grant_is_named_where_it_is_another() -> None:
    nearest = traces.facts(0x1000, 4096)
    event = request(1, (0x2000, 64), reason="PROTECTION_OUTSIDE", byte=0x2000, nearest=nearest)
    found = complaint(event, properties=memory({}))
    assert "owner 0x7, of ring, 4096 bytes at 0x1000" in found
    assert "there:" not in found


def test_memory_that_was_released_says_where_and_when() -> None:
    event = request(5, reason="PROTECTION_OUTSIDE", byte=0x1000)
    gone = {"released": "test_nic.py:30", "released_after": 2, "ago": 9}
    found = complaint(event, properties=memory(gone))
    assert "released at test_nic.py:30, 3 operations ago" in found
    assert "nearest grant: none is in force" in found
    assert "wait until the DMA is done" in found
    again = complaint(event, properties=memory(gone, {"name": "new"}))
    assert "there: new," in again, "what is there now"


@pytest.mark.parametrize(("after", "released"), [(6, False), (5, False), (4, True), (0, True)])
def test_release_after_the_refused_dma_is_not_its_cause(after: int, released: bool) -> None:
    """The guest tells of its memory at the end of the test, where fixtures have released it."""
    events = request(5, reason="PROTECTION_OUTSIDE", byte=0x1000), request(6, moved=64)
    row = {"released": "test_nic.py:30", "released_after": after, "ago": 1}
    found = complaint(*events, properties=memory(row))
    assert ("released at" in found) == released
    words = "1 operation ago" if after == 4 else "5 operations ago"
    assert (words in found) == released
    assert ("prepare() the buffer" in found) != released


def test_the_kernels_fault_of_a_refusal_is_told_with_it() -> None:
    evidence = Evidence.of([request(1, (0x5000, 64), reason="UNMAPPED", byte=0x5000)])
    told = ["DMAR fault: read by 00:03.0 at 0x5000"]
    (found,) = host_view.look(evidence, (), told=told).objections
    assert f"the second witness: {told[0]}" in found
    unexpected = host_view.look(evidence, (), others=["a fault that no test expected"], told=told)
    assert "second witness" not in "".join(unexpected.objections), "it is named already"
    announced = host_view.look(evidence, [expects(0, 1, "UNMAPPED")], told=told)
    assert not announced.objections


def test_past_the_end_names_the_byte_at_fault() -> None:
    event = request(1, (0x1FC0, 128), reason="PROTECTION_PAST_END", byte=0x2000)
    found = complaint(event, properties=memory({}))
    assert "the first byte at fault is 0x2000" in found


def test_refusals_alike_are_one_and_others_are_counted() -> None:
    alike = [request(each, (0x1000 * each, 64), reason="UNMAPPED") for each in range(1, 6)]
    assert "and 4 more like it, the last at 0x5000" in complaint(*alike)
    reasons = ("UNMAPPED", "READ_ONLY", "OWN_BAR", "ALIGNMENT", "BOUNDARY")
    kinds = [request(each, reason=reason) for each, reason in enumerate(reasons, 1)]
    found = complaint(*kinds)
    assert found.count("  why: ") == 3
    assert "and 2 more that were refused for other reasons" in found


def test_every_reason_has_words_of_its_own() -> None:
    from dma_rehearsal.device.layout import DmaReason

    for reason in set(DmaReason.__members__) - {"NONE", "RESET", "CLIENT_GONE"}:
        found = complaint(request(reason=reason))
        assert "the device's model refused it" not in found, reason
        assert "{" not in found


def test_reason_of_ones_own_is_told_all_the_same() -> None:
    assert "refused: TOO_HOT" in complaint(request(reason="TOO_HOT"))


def test_addresses_are_hexadecimal() -> None:
    event = request(1, (0xC000000, 64), reason="PROTECTION_OUTSIDE", byte=0xC000000)
    assert str(0xC000000) not in complaint(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": -1},
        {"length": "3"},
        {"made": 3},
        {"name": "x" * 400},
        {"ago": True},
        {"released_after": -1},
    ],
)
def test_memory_that_cannot_be(changes: dict[str, Any]) -> None:
    host_view.check(memory({}))
    with pytest.raises(GuestProtocolError, match="memory that cannot exist"):
        host_view.check(memory(changes))


@pytest.mark.parametrize("value", [None, 3, [3], [MEMORY] * (guest_buffers.ROWS_MAX + 1)])
def test_list_of_memory_that_cannot_be(value: object) -> None:
    with pytest.raises(GuestProtocolError):
        host_view.check([("memory", value)])


def test_nothing_refused_nothing_said() -> None:
    assert refusals.complaint([], []) == ""
    assert complaint(request(moved=64)) == ""


def test_full_trace_is_an_objection() -> None:
    found = complaint({"event": "trace is full", "device": "exerciser"})
    assert found.startswith("the device's trace is full")
