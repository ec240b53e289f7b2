# SPDX-License-Identifier: Apache-2.0
"""The host's verdict on a kernel driver: words that lead to the cause, and announcements."""

from __future__ import annotations

from typing import Any

import pytest

from dma_rehearsal.device.layout import CacheMissingCall
from dma_rehearsal.device.layout.driver_reports import DRIVER_REPORT_WORDS, DriverReportKind
from dma_rehearsal.device.layout.mailbox import MAIL_OWNER_BASE
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.verdict import (
    driver_judge,
    driver_promises,
    driver_words,
    host_view,
)
from dma_rehearsal.host_harness.verdict.driver_mappings import FUNCTIONS, DriverMappings
from dma_rehearsal.host_harness.verdict.driver_view import DriverView
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.ledger import Ledger
from tests.unit.host_harness.driver_traces import (
    TAG,
    Names,
    cache_report,
    expects,
    mapped,
    report,
    run,
    synced,
    unmapped,
)
from tests.unit.host_harness.traces import facts, mark, of_platform, request

UNMAP_SIZE = "DriverReportKind.UNMAP_SIZE"


def objections(*events: dict[str, Any], said: tuple[tuple[str, Any], ...] = (run(),)) -> list[str]:
    """Return the host's objections to a test with these events and properties."""
    evidence = Evidence.of(events)
    view = DriverView.of(events, DriverMappings(), evidence.refusals)
    verdict = driver_judge.judge(view, said, evidence.refusals, Names())
    return list(host_view.look(evidence, said, driver=verdict).objections)


def test_a_report_leads_to_the_cause() -> None:
    (text,) = objections(
        mark(1), mapped(length=1536), report("UNMAP_SIZE", values=(1536, 42)), unmapped()
    )
    assert text.splitlines() == [
        "UNMAP_SIZE by my_poll at my.c:120: a mapping was undone with another size than it was "
        "made with",
        "  call: dma_unmap_single/page",
        "  buffer: dma_map_single/page: 1536 bytes at 0x1000, DMA_FROM_DEVICE, made by my_fill at "
        "my.c:88",
        "  seen: bytes mapped: 1536, bytes unmapped: 42",
        "  condition: held, driver my_driver",
        "  next: keep the size beside the handle, and pass the same to the unmap",
        f"if it is intended: with driver.expects({UNMAP_SIZE}): ... around that part",
    ]


def test_a_quiet_driver_has_no_objection() -> None:
    events = [mark(1), mapped(), request(1, moved=64), synced(to="CPU"), synced(), unmapped()]
    assert objections(*events) == []


def test_reports_that_are_alike_are_told_once() -> None:
    many = [report("UNMAP_SIZE") for _ in range(5)]
    kinds = ["UNMAP_NENTS", "UNMAP_CALL", "SYNC_PAST_END", "MASK_NEVER_SET"]
    (text,) = objections(mark(1), mapped(), *many, *map(report, kinds))
    assert "  and 4 more like it" in text
    assert "and 2 more: MASK_NEVER_SET, SYNC_PAST_END" in text


def test_a_report_without_a_mapping_says_where() -> None:
    (text,) = objections(mark(1), report("UNMAP_OF_NOTHING", tag=None))
    assert "  there: 64 bytes at 0x1000" in text


def test_values_have_their_names() -> None:
    (text,) = objections(mark(1), mapped(), report("UNMAP_DIRECTION", values=(1, 2)))
    assert "direction mapped: DMA_FROM_DEVICE, direction unmapped: DMA_TO_DEVICE" in text
    (text,) = objections(mark(1), mapped(), report("UNMAP_CALL", values=(5, 0)))
    assert "call that mapped: dma_map_sg" in text


def test_a_refusal_names_the_mapping_and_when_it_was_undone() -> None:
    late = request(7, reason="PROTECTION_OUTSIDE", byte=0x1000)
    (text,) = objections(
        mark(1), mapped(), unmapped(), mapped(TAG + 1, 0x9000), late, said=(run(),)
    )
    assert "refused: PROTECTION_OUTSIDE, and the test did not announce it" in text
    assert (
        "  there: dma_map_single/page: 64 bytes at 0x1000, DMA_FROM_DEVICE, made by my_fill at "
        "my.c:88, undone by dma_unmap_single/page in my_poll at my.c:120, 1 operation ago" in text
    )
    assert "  condition: held, driver my_driver" in text
    assert "next: the mapping was undone while the device still had its address: wait" in text
    assert "with driver.expects(DmaReason.PROTECTION_OUTSIDE)" in text


def test_a_mapping_of_another_functions_device_is_told_with_both_functions() -> None:
    nearest = facts(0x1000, 64) | {"function": "00:04.0"}
    event = request(1, reason="PROTECTION_FUNCTION", byte=0x1000, nearest=nearest)
    (text,) = objections(mark(1), mapped(), event | {"function": "00:04.3"})
    assert "why: the memory is granted to 00:04.0 alone, and 00:04.3 does this DMA" in text
    assert "  there: dma_map_single/page: 64 bytes at 0x1000" in text
    assert "next: map the buffer with the struct device of 00:04.3, which does the DMA" in text
    assert "with driver.expects(DmaReason.PROTECTION_FUNCTION)" in text


def test_a_refusal_of_memory_that_was_never_mapped_says_so() -> None:
    (text,) = objections(mark(1), request(1, reason="PROTECTION_OUTSIDE", byte=0x1000))
    assert "next: map the buffer before the device gets its address" in text
    assert "with driver.expects(DmaReason.PROTECTION_OUTSIDE)" in text


def test_the_handle_of_a_failed_mapping_is_known() -> None:
    failed = request(1, ((1 << 64) - 1, 64), reason="ADDRESS_WRAP")
    (text,) = objections(mark(1), failed)
    assert "  why: the address is DMA_MAPPING_ERROR: a mapping failed, or this entry of a" in text
    assert "next: check each handle with dma_mapping_error()" in text
    (text,) = objections(mark(1), failed, said=())
    assert "DMA_MAPPING_ERROR" not in text, "nothing but a kernel driver has such a handle"


def test_a_refusal_past_the_end_names_the_nearest_mapping() -> None:
    nearest = facts(0x1000, 64, owner=MAIL_OWNER_BASE | TAG)
    past = request(1, (0x1000, 65), reason="PROTECTION_PAST_END", byte=0x1040, nearest=nearest)
    (text,) = objections(mark(1), mapped(), past)
    assert ", of dma_map_single/page: 64 bytes at 0x1000" in text
    assert "compare the length that the device got with the one that was mapped" in text


def test_a_refusal_of_the_wrong_direction_names_linuxs() -> None:
    nearest = facts(0x1000, 64, owner=MAIL_OWNER_BASE | TAG)
    wrong = request(1, reason="PROTECTION_DIRECTION", byte=0x1000, nearest=nearest)
    (text,) = objections(mark(1), mapped(direction="OUT"), wrong)
    assert "the device writes memory here, which needs DMA_FROM_DEVICE or" in text
    assert text.count("made by my_fill") == 1, "one buffer is named once"


def test_a_cache_report_is_in_linuxs_words_and_names_the_call_that_found_it() -> None:
    (text,) = objections(mark(1), mapped(), cache_report(), unmapped())
    lines = text.splitlines()
    assert lines[0].startswith(
        "RELEASED_UNREAD in the buffer of dma_map_single/page made by my_fill at my.c:88, offset 0"
    )
    assert lines[0].endswith("missing: dma_sync_*_for_cpu() after the receive")
    assert "  call: dma_unmap_single/page by my_poll at my.c:120, which found it" in lines
    assert any(line.startswith("  next: call dma_sync_single_for_cpu()") for line in lines)
    assert "with driver.expects(CacheReportKind.RELEASED_UNREAD)" in lines[-1]


def test_a_report_that_the_devices_dma_found_has_no_call() -> None:
    (text,) = objections(mark(1), mapped(), cache_report(by="NO_SNOOP_WRITE"), unmapped())
    assert "which found it" not in text


def test_lost_and_unchecked_reports_are_told() -> None:
    lost = of_platform("cache reports lost", count=3)
    (text,) = objections(mark(1), mapped(), lost)
    assert text.startswith("the cache model could not check all that the driver did: 3 more")


def test_every_kind_and_call_has_words() -> None:
    assert set(DRIVER_REPORT_WORDS) == set(DriverReportKind)
    assert set(driver_words._CACHE_NEXT) == set(CacheMissingCall)
    assert set(FUNCTIONS) >= set(driver_words._CALLS.values())


# Announcements.


def test_an_announced_report_is_no_objection() -> None:
    events = [mark(1), mapped(), report("UNMAP_SIZE"), unmapped(), mark(2)]
    assert objections(*events, said=(run(), expects(UNMAP_SIZE))) == []
    assert objections(*events, said=(run(), expects(UNMAP_SIZE, count=1))) == []


def test_kinds_of_all_sorts_are_announced_together() -> None:
    kinds = UNMAP_SIZE, "CacheReportKind.RELEASED_UNREAD", "DmaReason.PROTECTION_OUTSIDE"
    events = [
        *(mark(1), mapped(), report("UNMAP_SIZE"), cache_report(), unmapped()),
        *(request(1, reason="PROTECTION_OUTSIDE", byte=0x1000), mark(2)),
    ]
    assert objections(*events, said=(run(), expects(*kinds, count=3))) == []
    left = objections(*events, said=(run(), expects(*kinds[:1])))
    assert len(left) == 2


@pytest.mark.parametrize(
    "said",
    [
        expects("DriverReportKind.UNMAP_NENTS"),
        expects(UNMAP_SIZE, first=2, last=3),
        expects(UNMAP_SIZE, first=0, last=1),
    ],
)
def test_another_kind_or_another_time_announces_nothing(said: tuple[str, Any]) -> None:
    events = [mark(0), mark(1), mapped(), report("UNMAP_SIZE"), mark(2), mark(3)]
    found = objections(*events, said=(run(0), said))
    assert any(each.startswith("UNMAP_SIZE by") for each in found)
    assert any("1 due" in each or "at least one due, 0 came" in each for each in found)


def test_an_announcement_that_nothing_meets_fails() -> None:
    (text,) = objections(mark(1), mapped(), unmapped(), mark(2), said=(run(), expects(UNMAP_SIZE)))
    assert text.startswith(
        f"driver.expects({UNMAP_SIZE}): at least one due, 0 came; within it the device's trace "
        "has: nothing"
    )
    assert objections(mark(1), mark(2), said=(run(), expects(UNMAP_SIZE, optional=True))) == []


@pytest.mark.parametrize(("count", "fails"), [(1, True), (2, False), (3, True)])
def test_a_count_must_be_right(count: int, fails: bool) -> None:
    events = [mark(1), mapped(), report("UNMAP_SIZE"), report("UNMAP_SIZE"), mark(2)]
    found = objections(*events, said=(run(), expects(UNMAP_SIZE, count=count)))
    assert bool(found) is fails


def test_marks_that_the_trace_lacks_announce_nothing() -> None:
    events = [mark(1), mapped(), report("UNMAP_SIZE")]
    found = objections(*events, said=(run(), expects(UNMAP_SIZE)))
    assert len(found) == 2


def test_a_report_in_a_test_without_a_driver_fails_it_too() -> None:
    found = objections(mapped(), report("UNMAP_OF_NOTHING", tag=None), said=(run(),))
    assert found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("driver expects", {"kinds": []}),
        ("driver expects", {"kinds": ["DriverReportKind.NONSENSE"]}),
        ("driver expects", {"kinds": [3]}),
        ("driver expects", {"first": 3}),
        ("driver expects", {"first": -1}),
        ("driver expects", {"last": 1 << 32}),
        ("driver expects", {"count": 0}),
        ("driver expects", {"count": True}),
        ("driver expects", {"optional": 1}),
        ("driver run", {"mark": "1"}),
        ("driver run", {"driver": "x" * 101}),
        ("driver run", {"condition": None}),
        ("driver run", {"loaded": []}),
        ("driver run", {"loaded": {"a": {"b": -1}}}),
        ("driver run", {"loaded": {"a": {str(each): 1 for each in range(65)}}}),
        ("driver run", {"loaded": {str(each): {} for each in range(65)}}),
    ],
)
def test_words_of_the_guest_that_cannot_be(name: str, changes: dict[str, Any]) -> None:
    _, value = expects(UNMAP_SIZE) if name == "driver expects" else run()
    host_view.check([(name, value)])
    cases: list[object] = [{**value, **changes}, None, []]
    for wrong in cases:
        with pytest.raises(GuestProtocolError, match="of what cannot be"):
            host_view.check([(name, wrong)])


def test_words_of_the_guest_are_few() -> None:
    with pytest.raises(GuestProtocolError, match="2001 times in one test"):
        host_view.check([run()] * 2001)


# Promises.


def rows(*events: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    view = DriverView.of(events, DriverMappings())
    found = driver_promises.rows(view.mappings, "test_x")
    return [(each.promise, each.asked, each.attested, each.verdict) for each in found]


def test_a_mapping_that_no_call_made_promises_nothing() -> None:
    """A test of the mailbox makes one, without a driver."""
    assert rows(mapped(length=64, call="NONE"), request(1, (0x1000, 64), moved=64)) == []


def test_a_function_and_a_direction_make_a_row() -> None:
    found = rows(
        mapped(length=64),
        request(1, (0x1000, 64), moved=64),
        unmapped(),
        mapped(TAG + 1, 0x2000, 64),
        mapped(TAG + 2, 0x3000, 32, direction="OUT", call="MAP_SG"),
        request(2, (0x3000, 16), write=False, moved=16),
        request(3, (0x3008, 16), write=False, moved=16),
    )
    assert found == [
        (
            "dma_map_single/page: DMA_FROM_DEVICE",
            "2 mappings, 128 bytes",
            "wrote 64 of 64 bytes in 1 DMA; 1 mapping never touched",
            "kept",
        ),
        (
            "dma_map_sg: DMA_TO_DEVICE",
            "1 mapping, 32 bytes",
            "read 24 of 32 bytes in 2 DMAs",
            "kept",
        ),
    ]


@pytest.mark.parametrize(
    ("wrong", "broken"),
    [
        (report("UNMAP_SIZE", TAG + 1), {"dma_map_sg: DMA_TO_DEVICE"}),
        (
            request(3, (0x3000, 64), reason="PROTECTION_DIRECTION", byte=0x3000),
            {"dma_map_sg: DMA_TO_DEVICE"},
        ),
        (report("MASK_NEVER_SET", None), {"what the host saw"}),
    ],
)
def test_a_mistake_breaks_the_promise_that_it_is_about(
    wrong: dict[str, Any], broken: set[str]
) -> None:
    events = [
        *(mark(1), mapped(), request(1, moved=64)),
        mapped(TAG + 1, 0x3000, 64, direction="OUT", call="MAP_SG"),
        *(request(2, (0x3000, 64), write=False, moved=64), wrong),
    ]
    evidence = Evidence.of(events)
    view = DriverView.of(events, DriverMappings(), evidence.refusals)
    verdict = driver_judge.judge(view, [run()], evidence.refusals, Names())
    found = driver_promises.rows(view.mappings, "test_x.py::test_x")
    host = host_view.look(evidence, [run()], driver=verdict, rows=found)
    ledger = Ledger()
    ledger.add_test([passed()], host=host)
    assert {(row.promise, row.verdict) for row in ledger.promises} == {
        (each, "broken") for each in broken
    }


def passed() -> pytest.TestReport:
    return pytest.TestReport(
        "test_x.py::test_x", ("test_x.py", 1, "test_x"), {}, "passed", None, "call"
    )


def test_the_wrong_way_attests_nothing() -> None:
    assert rows(mapped(direction="OUT"), request(1, moved=64)) == []


def test_both_ways_are_told_for_a_bidirectional_mapping() -> None:
    ((_, _, attested, _),) = rows(
        mapped(direction="IN_OUT", call="ALLOC_COHERENT"),
        request(1, moved=64),
        request(2, write=False, moved=8),
    )
    assert attested == "read 8 of 64 bytes in 1 DMA; wrote 64 of 64 bytes in 1 DMA"


def test_what_no_device_touched_in_a_run_is_a_note() -> None:
    untouched = driver_promises.Untouched()
    for events in ([mapped()], [mapped(direction="OUT"), mapped(TAG + 1)]):
        untouched.add(DriverView.of(events, DriverMappings()).mappings)
    assert untouched.notes() == [
        "dma_map_single/page: DMA_FROM_DEVICE: the device touched none of 2 mappings, so nothing "
        "attests them",
        "dma_map_single/page: DMA_TO_DEVICE: the device touched none of 1 mapping, so nothing "
        "attests them",
    ]
    touched = [mapped(), request(1, moved=64)]
    untouched.add(DriverView.of(touched, DriverMappings()).mappings)
    assert len(untouched.notes()) == 1
