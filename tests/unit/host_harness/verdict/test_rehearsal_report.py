# SPDX-License-Identifier: Apache-2.0
"""A rehearsal's report has each test under each condition, and each mistake once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.host_harness.verdict import driver_judge, failed_report, host_view
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.driver_mappings import DriverMappings
from dma_rehearsal.host_harness.verdict.driver_view import DriverView
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.host_view import NOTHING_SEEN, HostView
from dma_rehearsal.host_harness.verdict.rehearsal_report import RehearsalReport
from tests.unit.host_harness.driver_traces import (
    TAG,
    Names,
    cache_report,
    mapped,
    report,
    run,
    unmapped,
)
from tests.unit.host_harness.traces import mark, request

LEAK = DriverFinding.of(
    "DriverReportKind.NEVER_UNMAPPED",
    "my_fill at my.c:88",
    [
        "NEVER_UNMAPPED by my_fill at my.c:88: left behind",
        "  buffer: dma_map_single/page: 64 bytes at 0x1000, DMA_TO_DEVICE, made by my_fill at "
        "my.c:88",
        "  condition: eager, driver my",
        "  next: undo it in remove()",
    ],
)


def reports(
    name: str,
    condition: str = "",
    outcome: Any = "passed",
    *,
    file: str = "tests/test_my.py",
    longrepr: Any = None,
    when: Any = "call",
) -> list[pytest.TestReport]:
    nodeid = f"{file}::{name}"
    return [
        pytest.TestReport(
            nodeid=nodeid,
            location=("tests/test_my.py", 1, name),
            keywords={},
            outcome=outcome,
            longrepr=longrepr,
            when=when,
            user_properties=[run(condition=condition)] if condition else [],
        )
    ]


def failed(name: str, condition: str, *facts: DriverFinding) -> tuple[list[Any], HostView]:
    """A test that failed because of what the host saw."""
    made = reports(name, condition)
    failed_report.objected(made, "\n".join(each.text for each in facts))
    return made, HostView(facts=facts)


def test_table_and_findings() -> None:
    found = RehearsalReport()
    found.add(*failed("test_echo[eager]", "eager", LEAK))
    found.add(*failed("test_echo[held]", "held", LEAK))
    found.add(reports("test_echo[merge]", "merge"), NOTHING_SEEN)
    found.add(reports("test_ring[4-held]", "held"), NOTHING_SEEN)
    found.add(*failed("test_ring[4-eager]", "eager", LEAK))
    assert found.lines() == [
        "rehearsal of tests/test_my.py",
        "",
        "test         | eager  | held   | merge",
        "---------------------------------------",
        "test_echo    | FAILED | FAILED | passed",
        "test_ring[4] | FAILED | passed | -",
        "",
        "1. NEVER_UNMAPPED by my_fill at my.c:88: left behind",
        "     buffer: dma_map_single/page: 64 bytes at 0x1000, DMA_TO_DEVICE, made by my_fill at "
        "my.c:88",
        "     next: undo it in remove()",
        "     under: eager, held",
        "     in: tests/test_my.py::test_echo, tests/test_my.py::test_ring[4]",
        "",
        "2 tests under 3 conditions: 2 of 5 passed, 1 finding",
    ]


def test_tests_of_several_files_keep_the_parts_that_differ() -> None:
    found = RehearsalReport()
    for file in ("checks/a/test_my.py", "checks/test_b.py"):
        found.add(reports("test_echo[eager]", "eager", file=file), NOTHING_SEEN)
    assert found.lines() == [
        "rehearsal of checks",
        "",
        "test                    | eager",
        "--------------------------------",
        "a/test_my.py::test_echo | passed",
        "test_b.py::test_echo    | passed",
        "",
        "2 tests under 1 condition: 2 of 2 passed, 0 findings",
    ]


def test_run_without_tests_says_only_that() -> None:
    assert RehearsalReport().lines() == ["rehearsal: no test with a driver has run"]


def test_one_mistake_has_one_entry_wherever_its_buffer_is() -> None:
    found = RehearsalReport()
    moved = DriverFinding.of(
        LEAK.kind, LEAK.place, LEAK.text.replace("0x1000", "0x2000").split("\n")
    )
    other = DriverFinding.of(LEAK.kind, "my_probe at my.c:7", LEAK.text.split("\n"))
    found.add(*failed("test_echo[eager]", "eager", LEAK))
    found.add(*failed("test_echo[held]", "held", moved, other))
    assert [each["conditions"] for each in found.facts()["findings"]] == [
        ["eager", "held"],
        ["held"],
    ]


def test_every_condition_is_said_in_two_words() -> None:
    found = RehearsalReport()
    for condition in ("eager", "held-noncoherent"):
        found.add(*failed(f"test_echo[{condition}]", condition, LEAK))
    assert "     under: every condition" in found.lines()
    assert found.conditions == ["eager", "held-noncoherent"]


def test_conditions_keep_their_order_whatever_runs_first() -> None:
    found = RehearsalReport()
    for condition in ("held-16-bits", "every-failure", "held", "eager"):
        found.add(reports(f"test_echo[{condition}]", f"{condition}, failure 2"), NOTHING_SEEN)
    assert found.conditions == ["eager", "held", "every-failure", "held-16-bits"]
    assert list(found.results) == ["tests/test_my.py::test_echo"]


def test_failure_of_the_test_itself() -> None:
    text = (
        "    def test_echo(driver):\n>       assert 1 == 2\nE       AssertionError: wrong data\n"
        "E       assert 1 == 2\n\ntests/test_my.py:8: AssertionError"
    )
    found = RehearsalReport()
    for condition in ("eager", "held"):
        made = reports(f"test_echo[{condition}]", condition, "failed", longrepr=text)
        found.add(made, NOTHING_SEEN)
    assert found.lines()[6:11] == [
        "1. the test failed: AssertionError: wrong data",
        "     assert 1 == 2",
        "     at tests/test_my.py:8",
        "     under: every condition",
        "     in: tests/test_my.py::test_echo",
    ]


def test_test_that_failed_before_it_bound_the_driver() -> None:
    found = RehearsalReport()
    name = "test_echo[held-noncoherent-4]"
    found.add(reports(name, outcome="failed", longrepr="E   no endpoint"), NOTHING_SEEN)
    assert found.results == {"tests/test_my.py::test_echo[4]": {"held-noncoherent": "FAILED"}}
    found.add(reports("test_other[eager]"), NOTHING_SEEN)  # of no driver
    assert len(found.results) == 1


def test_test_in_which_the_run_was_lost() -> None:
    found = RehearsalReport()
    found.add(reports("test_echo[eager]", "eager"), NOTHING_SEEN)
    found.lose("tests/test_my.py::test_echo[hostile]")
    found.lose("")
    assert found.results == {"tests/test_my.py::test_echo": {"eager": "passed", "hostile": "LOST"}}
    assert found.lines()[-1] == "1 test under 2 conditions: 1 of 2 passed, 0 findings"


def test_failed_test_without_a_driver_is_told_too() -> None:
    found = RehearsalReport()
    found.add(reports("test_plain", outcome="failed", longrepr="E   nothing works"), NOTHING_SEEN)
    assert found.lines() == [
        "rehearsal: no test with a driver has run",
        "",
        "1. the test failed: nothing works",
        "     in: tests/test_my.py::test_plain",
        "",
        "0 tests under 0 conditions: 0 of 0 passed, 1 finding",
    ]


@pytest.mark.parametrize(
    ("outcome", "wasxfail", "verdict"),
    [("skipped", None, "skipped"), ("skipped", "known", "xfailed"), ("passed", None, "passed")],
)
def test_other_verdicts(outcome: str, wasxfail: str | None, verdict: str) -> None:
    (made,) = reports("test_echo[eager]", "eager", outcome, longrepr=("a.py", 1, "Skipped: no"))
    if wasxfail:
        made.wasxfail = wasxfail
    found = RehearsalReport()
    found.add([made], NOTHING_SEEN)
    assert found.results == {"tests/test_my.py::test_echo": {"eager": verdict}}
    assert found.facts()["findings"] == []


def test_report_in_the_runs_folder(tmp_path: Path) -> None:
    found = RehearsalReport()
    found.add(*failed("test_echo[eager]", "eager", LEAK))
    found.write(tmp_path, 1)
    assert (tmp_path / "rehearsal.txt").read_text().splitlines() == found.lines()
    facts = json.loads((tmp_path / "rehearsal.json").read_text())
    assert facts["status"] == 1
    assert facts["tests"] == [
        {"test": "tests/test_my.py::test_echo", "results": {"eager": "FAILED"}}
    ]
    (finding,) = facts["findings"]
    assert finding["kind"] == "DriverReportKind.NEVER_UNMAPPED"
    assert (finding["place"], finding["next"]) == ("my_fill at my.c:88", "undo it in remove()")
    assert finding["conditions"] == ["eager"]


def test_long_finding_is_cut() -> None:
    long = DriverFinding.of("", "", [f"line {number}" for number in range(40)])
    found = RehearsalReport()
    found.add(*failed("test_echo[eager]", "eager", long))
    assert "     ... 15 lines more in rehearsal.json" in found.lines()


def seen(*events: dict[str, Any]) -> HostView:
    evidence = Evidence.of(events)
    view = DriverView.of(events, DriverMappings(), evidence.refusals)
    verdict = driver_judge.judge(view, (run(),), evidence.refusals, Names())
    return host_view.look(evidence, (run(),), driver=verdict)


def test_facts_are_the_objections_apart() -> None:
    late = request(7, reason="PROTECTION_OUTSIDE", byte=0x1000)
    view = seen(
        mark(1),
        mapped(),
        report("UNMAP_SIZE", values=(64, 42)),
        cache_report(by="NO_SNOOP_WRITE"),
        unmapped(),
        mapped(TAG + 1, 0x9000),
        late,
    )
    assert [(each.kind, each.place) for each in view.facts] == [
        ("DriverReportKind.UNMAP_SIZE", "my_poll at my.c:120"),
        ("CacheReportKind.RELEASED_UNREAD", "my_fill at my.c:88"),
        ("DmaReason.PROTECTION_OUTSIDE", "my_fill at my.c:88"),
    ]
    assert all(each.next and each.buffer for each in view.facts)
    for each in view.facts:
        assert any(each.text in objection for objection in view.objections)


def test_other_objections_are_facts_too() -> None:
    evidence = Evidence.of([])
    view = host_view.look(evidence, (), others=("the channel broke\n  next: run again",))
    assert [(each.what, each.next) for each in view.facts] == [("the channel broke", "run again")]
    assert seen(mark(1), mapped(), unmapped()).facts == ()
