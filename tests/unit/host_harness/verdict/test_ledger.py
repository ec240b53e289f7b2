# SPDX-License-Identifier: Apache-2.0
"""The ledger: silence is never a yes, and only a known gap excuses an unattested promise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.verdict import host_view
from dma_rehearsal.host_harness.verdict.evidence import Evidence
from dma_rehearsal.host_harness.verdict.failed_report import HostWords
from dma_rehearsal.host_harness.verdict.host_view import HostView
from dma_rehearsal.host_harness.verdict.known_gaps import OWN, KnownGaps
from dma_rehearsal.host_harness.verdict.ledger import AFTER, HOST_SAW, UNASKED, VERDICTS, Ledger
from dma_rehearsal.host_harness.verdict.promise import Promise
from tests.unit.host_harness import traces


def report(
    outcome: Literal["passed", "failed", "skipped"] = "passed",
    when: Literal["setup", "call", "teardown"] = "call",
    properties: list[Any] | None = None,
    longrepr: Any = None,
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="suite/test_x.py::test_x",
        location=("suite/test_x.py", 1, "test_x"),
        keywords={},
        outcome=outcome,
        longrepr=longrepr,
        when=when,
        user_properties=[("promise", value) for value in properties or []],
    )


def row(verdict: str = "kept", promise: str = "alignment", reason: str = "") -> dict[str, str]:
    return {
        "promise": promise,
        "asked": "4096",
        "attested": "low 12 bits 0",
        "verdict": verdict,
        "reason": reason,
    }


def test_kept_promise_raises_no_objection() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[row()])], ["alignment"])
    assert (ledger.passed, ledger.failed) == (1, 0)
    assert ledger.objections() == []


def test_broken_promise_fails_the_run() -> None:
    ledger = Ledger()
    said = report("failed", properties=[row("broken")], longrepr="E  alignment is broken")
    ledger.add_test([said], [])
    assert [each.promise for each in ledger.objections()] == ["alignment"]
    assert ledger.failed == 1


def test_what_is_repeated_is_of_a_test_whatever_its_name() -> None:
    """A failure after the last test has no test to run again."""
    ledger = Ledger()
    for name in "a", "z", "_":
        promise = Promise("alignment", "", "", "broken", "", f"{name}.py::test_x")
        ledger.promises.append(promise)
    ledger.failures.append("_.py::test_x")
    ledger.add_failure("DMA", "late")
    assert ledger.to_repeat() == [f"{name}.py::test_x" for name in "_az"]


def test_failure_before_attestation_breaks_the_marked_promise() -> None:
    ledger = Ledger()
    ledger.add_test([report("failed", longrepr="x = 1\nE   the buffer is elsewhere")], ["release"])
    (objection,) = ledger.objections()
    assert (objection.promise, objection.verdict) == ("release", "broken")
    assert objection.reason == "the buffer is elsewhere"


def test_failed_setup_breaks_the_marked_promise() -> None:
    ledger = Ledger()
    ledger.add_test([report("failed", when="setup", longrepr="E  no device")], ["MSI-X"])
    assert [each.verdict for each in ledger.objections()] == ["broken"]


def test_passing_in_silence_is_unattested_and_fails_the_run() -> None:
    ledger = Ledger()
    ledger.add_test([report()], ["capacity"])
    (objection,) = ledger.objections()
    assert (objection.promise, objection.verdict) == ("capacity", "unattested")


def test_skipping_is_unattested() -> None:
    ledger = Ledger()
    skipped = report("skipped", longrepr=("f", 1, "Skipped: no high memory"))
    ledger.add_test([skipped], ["alignment"])
    (objection,) = ledger.objections()
    assert "no high memory" in objection.reason


def test_reviewed_reason_excuses_and_another_does_not(tmp_path: Path) -> None:
    promise, reason = "wiring", "nothing looks at it yet"
    listed = tmp_path / "list.toml"
    listed.write_text(f"[[unattested]]\npromise = '{promise}'\nreason = '{reason}'\n")
    ledger = Ledger(known_gaps=KnownGaps.load(listed))
    ledger.add_test([report(properties=[row("unattested", promise, reason)])], [])
    assert ledger.objections() == []
    assert reason in ledger.table()
    ledger.add_test([report(properties=[row("unattested", promise, "some other reason")])], [])
    assert len(ledger.objections()) == 1


def test_unsupported_needs_the_list_too() -> None:
    ledger = Ledger()
    promise, asked = min(ledger.known_gaps.unsupported)
    ledger.add_test([report(properties=[row("unsupported", promise) | {"asked": asked}])], [])
    assert ledger.objections() == []
    ledger.add_test([report(properties=[row("unsupported", "kIODirectionOut")])], [])
    assert [each.promise for each in ledger.objections()] == ["kIODirectionOut"]


def test_list_speaks_of_the_own_suite_alone(tmp_path: Path) -> None:
    ledger = Ledger(known_gaps=KnownGaps())
    promise, asked = min(KnownGaps.load(OWN).unsupported)
    ledger.add_test([report(properties=[row("unsupported", promise) | {"asked": asked}])], [])
    assert len(ledger.objections()) == 1
    (tmp_path / "list.toml").write_text("[[unattested]]\npromise = 'x'\n")
    with pytest.raises(UsageError, match=r"list\.toml"):
        KnownGaps.load(tmp_path / "list.toml")


def test_kept_in_a_test_without_any_device_is_unattested() -> None:
    ledger = Ledger()
    said = report(properties=[row(), row("broken")])
    ledger.add_test([said], ["alignment"], host_view.look(Evidence(), []))
    assert [each.verdict for each in ledger.promises] == ["unattested", "broken"]
    assert ledger.promises[0].reason == "no DMA moved a byte during this test"


def test_words_of_a_guest_cannot_forge_rows_or_colours() -> None:
    ledger = Ledger()
    forged = row() | {"asked": "WC\nkIOMapInhibitCache | x", "attested": "\x1b[31mWC\x1b[0m"}
    ledger.add_test([report(properties=[forged])], [])
    assert ledger.promises[0].asked == "WC kIOMapInhibitCache | x"
    assert ledger.promises[0].attested == "WC"


def test_malformed_record_is_broken() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=["nonsense", {"verdict": "fine"}])], [])
    assert [each.verdict for each in ledger.objections()] == ["broken", "broken"]


def test_attestations_file_has_counts_facts_and_rows(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[row()])], ["alignment"])
    ledger.write(tmp_path / "a.json", {"accelerator": "tcg", "seed": 7})
    whole = json.loads((tmp_path / "a.json").read_text())
    assert whole["accelerator"] == "tcg"
    assert (whole["passed"], whole["failed"]) == (1, 0)
    rest = {"test": "suite/test_x.py::test_x", "facts": {}, "by": "test", "xfail": ""}
    assert whole["promises"] == [{**row(), **rest}]


def test_table_has_one_row_for_each_promise_and_verdict() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.add_test([report(properties=[row()])], ["alignment"])
    rows = [line for line in ledger.table().splitlines() if line.startswith("alignment")]
    assert len(rows) == 1
    assert rows[0].endswith("kept x3, by the test")


def test_table_shows_the_test_that_asks_most() -> None:
    ledger = Ledger()
    for test, asked in (
        ("suite/a.py::test_refused[0]", "0: refused"),
        ("suite/b.py::test_sizes[1]", "1 bytes"),
        ("suite/b.py::test_sizes[2]", "2 bytes"),
        ("suite/b.py::test_sizes[3]", "3 bytes"),
        ("suite/c.py::test_last", "many at once"),
    ):
        each = report(properties=[row() | {"asked": asked}])
        each.nodeid = test
        ledger.add_test([each], [])
    (line,) = [line for line in ledger.table().splitlines() if line.startswith("alignment")]
    assert "1 bytes .. 3 bytes" in line
    assert line.endswith("kept x5, by the test")


def of_mode(mode: str = "kIOMapInhibitCache", **facts: str) -> dict[str, Any]:
    return {**row(promise=mode), "facts": {"mode": mode, **facts}}


def test_host_that_was_not_asked_has_not_agreed() -> None:
    said = of_mode(effective="UC", agreed="driver, host")
    for asked, come_to in ((True, "kept"), (False, "unattested")):
        ledger = Ledger()
        ledger.add_test([report(properties=[said])], [], HostView(witnessed=asked))
        assert [each.verdict for each in ledger.promises] == [come_to]
        assert [each.reason for each in ledger.objections()] == [UNASKED] * (not asked)
    ledger = Ledger()
    said = of_mode(agreed="driver")
    ledger.add_test([report(properties=[said])], [], HostView(witnessed=False))
    assert ledger.objections() == [], "who does not name the host needs none"


def test_cache_modes_have_a_table_of_their_own() -> None:
    ledger = Ledger()
    said = [
        of_mode(effective="UC", agreed="driver, host"),
        of_mode(**{"no-snoop": "sees memory"}),
        of_mode("kIOMapWriteCombineCache", effective="WC", agreed="driver, host"),
        row(),
    ]
    said[2]["verdict"] = "broken"
    ledger.add_test([report(properties=said)], [])
    table = ledger.table().splitlines()
    assert table[-4:-2] == [
        "mode asked              | effective type | agreed by    | no-snoop behaviour",
        "----------------------------------------------------------------------------",
    ]
    assert [line.split(" | ") for line in table[-2:]] == [
        ["kIOMapInhibitCache     ", "UC            ", "driver, host", "sees memory"],
        ["kIOMapWriteCombineCache", "WC            ", "no agreement", "-"],
    ]


def test_no_cache_modes_no_table() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[row()])], [])
    assert "mode asked" not in ledger.table()


def test_facts_that_are_none_are_a_broken_promise() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[{**row(), "facts": ["mode"]}])], [])
    assert [each.verdict for each in ledger.promises] == ["broken"]
    assert "malformed facts" in ledger.promises[0].reason


def test_rows_stand_in_the_order_of_the_tests() -> None:
    """They arrive as tests end, which is another order where several VMs share them."""
    ledger = Ledger()
    ledger.add_failure("cache reports", "late")
    ledger.promises += [
        Promise("alignment", asked, "", "kept", "", f"suite/test_x.py::test_x[{asked}]")
        for asked in ("4", "2", "1", "2")
    ]
    ledger.failures = [f"suite/test_x.py::test_x[{asked}]" for asked in ("4", "1")]
    ledger.arrange([f"suite/test_x.py::test_x[{asked}]" for asked in ("1", "2", "4")])
    assert [each.asked for each in ledger.promises] == ["1", "2", "2", "4", ""]
    assert ledger.failures == ["suite/test_x.py::test_x[1]", "suite/test_x.py::test_x[4]"]
    assert "1 .. 4" in ledger.table()


def seen(*events: dict[str, Any], properties: list[Any] | None = None) -> HostView:
    return host_view.look(Evidence.of(events), properties or [])


def test_host_that_objects_fails_the_report_that_passed() -> None:
    reports = [report(when="setup"), report(properties=[row()]), report(when="teardown")]
    reports[-1].user_properties = reports[1].user_properties
    ledger = Ledger()
    host = seen(traces.request(moved=64), traces.request(2, reason="UNMAPPED"))
    ledger.add_test(reports, [], host)
    assert [each.outcome for each in reports] == ["passed", "failed", "passed"]
    assert "refused: UNMAPPED" in reports[1].longreprtext
    told = reports[1].longrepr
    assert isinstance(told, HostWords)
    assert told.reprcrash.message.startswith("exerciser: a write of 64 bytes")
    assert (ledger.passed, ledger.failed, ledger.errors) == (0, 1, 0)
    assert [each.verdict for each in ledger.promises] == ["broken"]
    assert ledger.failures == ["suite/test_x.py::test_x"]
    assert ledger.of_the_run() == []


def test_host_without_objection_changes_nothing() -> None:
    reports = [report(when="setup"), report(properties=[row()]), report(when="teardown")]
    reports[-1].user_properties = reports[1].user_properties
    ledger = Ledger()
    ledger.add_test(reports, [], seen(traces.request(moved=64)))
    assert [each.outcome for each in reports] == ["passed"] * 3
    assert (ledger.passed, ledger.failed) == (1, 0)
    assert ledger.objections() == []


def test_row_that_is_not_reviewed_fails_the_tests_own_report() -> None:
    for listed, outcome in ((False, "failed"), (True, "passed")):
        known_gaps = KnownGaps(frozenset({("wiring", "nothing looks")} if listed else ()))
        ledger = Ledger(known_gaps=known_gaps)
        said = report(properties=[row("unattested", "wiring", "nothing looks")])
        ledger.add_test([said], [])
        assert said.outcome == outcome
        assert (ledger.passed, ledger.failed) == (int(listed), int(not listed))
        if not listed:
            assert said.longreprtext.startswith("unattested: wiring (asked: 4096): nothing looks")


def test_refused_dma_of_a_test_that_was_skipped_fails_it() -> None:
    for phase, count in (("call", "failed"), ("setup", "errors")):
        ledger = Ledger()
        skipped = report("skipped", phase, longrepr=("f", 1, "Skipped: no"))  # type: ignore[arg-type]
        ledger.add_test([skipped], [], seen(traces.request(reason="UNMAPPED")))
        assert skipped.failed
        assert getattr(ledger, count) == 1
        assert ledger.skipped == 0


def xfails(outcome: Any, *, strict: bool = False) -> pytest.TestReport:
    found = report(outcome)
    if strict:
        found.longrepr = "[XPASS(strict)] known"
    else:
        found.wasxfail = "known"
    return found


@pytest.mark.parametrize("strict", [False, True])
def test_objection_is_the_failure_that_was_expected(strict: bool) -> None:
    found = xfails("failed" if strict else "passed", strict=strict)
    ledger = Ledger()
    ledger.add_test([found], [], seen(traces.request(reason="UNMAPPED")))
    assert (found.outcome, found.wasxfail) == ("skipped", "known")
    assert (ledger.xfailed, ledger.xpassed, ledger.failed) == (1, 0, 0)
    assert ledger.objections() == []
    assert [(each.promise, each.xfail) for each in ledger.promises] == [(HOST_SAW, "known")]


def test_expected_failure_that_did_not_come() -> None:
    passed, strict = xfails("passed"), xfails("failed", strict=True)
    ledger = Ledger()
    ledger.add_test([passed], [], seen(traces.request(moved=64)))
    ledger.add_test([strict], [], seen(traces.request(moved=64)))
    assert (passed.outcome, strict.outcome) == ("passed", "failed")
    assert (ledger.xpassed, ledger.failed) == (1, 1)


def test_promise_that_was_expected_to_break_fails_nothing() -> None:
    found = xfails("skipped")
    found.user_properties = [("promise", row("broken"))]
    ledger = Ledger()
    ledger.add_test([found], ["alignment", "capacity"])
    assert ledger.objections() == []
    assert {(each.promise, each.verdict) for each in ledger.promises} == {
        ("alignment", "broken"),
        ("capacity", "unattested"),
    }
    assert "broken, by the test, xfail" in ledger.table()
    assert ledger.counted == "0 passed, 0 failed, 1 xfailed"


def test_failed_teardown_is_an_error_and_breaks_the_promise() -> None:
    ledger = Ledger()
    ledger.add_test(
        [report(when="setup"), report(), report("failed", "teardown", longrepr="E   left open")],
        ["release"],
    )
    assert (ledger.passed, ledger.failed, ledger.errors) == (1, 0, 1)
    assert [(each.promise, each.reason) for each in ledger.objections()] == [
        ("release", "left open")
    ]
    assert ledger.failures == ["suite/test_x.py::test_x"]
    assert ledger.counted == "1 passed, 0 failed, 1 error"


def test_call_and_teardown_that_fail_are_one_failure() -> None:
    ledger = Ledger()
    reports = [
        report(when="setup"),
        report("failed", longrepr="E   first"),
        report("failed", "teardown", longrepr="E   second"),
    ]
    ledger.add_test(reports, ["release"])
    assert (ledger.failed, ledger.errors) == (1, 0)
    assert [each.outcome for each in reports] == ["passed", "failed", "passed"]
    assert reports[1].sections == [("The teardown failed, too", "E   second")]


def test_objection_and_failed_teardown_are_one_failure() -> None:
    ledger = Ledger()
    reports = [report(when="setup"), report(), report("failed", "teardown", longrepr="E   later")]
    ledger.add_test(reports, [], seen(traces.request(reason="UNMAPPED")))
    assert (ledger.passed, ledger.failed, ledger.errors) == (0, 1, 0)


def test_tests_word_needs_the_kind_of_evidence_that_it_names() -> None:
    """Neighbours: the event of another kind, and the right one."""
    interrupt = {"event": "msi-x", "device": "exerciser", "vector": 0}
    walk = traces.witness((0x1000, 0x5000, 4096, "WB"))
    kinds = {
        None: (traces.request(moved=64), interrupt),
        "bytes": (traces.request(moved=64), interrupt),
        "interrupt": (interrupt, traces.request(moved=64)),
        "walk": (walk, interrupt),
        "cache": ({"event": "cache", "command": "CLEAN"}, interrupt),
        "register": (interrupt, {"event": "command", "value": 0}),
    }
    for kind, (right, other) in kinds.items():
        for event, verdict_of_it in ((right, "kept"), (other, "unattested")):
            ledger = Ledger()
            said = report(properties=[{**row(), "by": "test", "evidence": kind}])
            ledger.add_test([said], [], seen(event))
            assert [each.verdict for each in ledger.promises] == [verdict_of_it], kind
            assert said.failed == (verdict_of_it != "kept")


def test_refused_dma_and_a_failed_walk_are_no_evidence() -> None:
    refused = traces.request(reason="PROTECTION_DIRECTION")
    expects = ("expects", {"reasons": ["PROTECTION_DIRECTION"], "first": 0, "last": 9})
    walk = {**traces.witness((0x1000, 0x5000, 4096, "WB")), "status": "NOT_PRESENT"}
    for kind, event in (("bytes", refused), ("walk", walk)):
        ledger = Ledger()
        host = seen(event, properties=[expects])
        ledger.add_test([report(properties=[{**row(), "evidence": kind}])], [], host)
        assert [each.verdict for each in ledger.promises[:1]] == ["unattested"], kind


def test_teardowns_report_has_the_properties_of_all_phases() -> None:
    """A claim in a fixture's teardown counts, too."""
    phases = [report(when=when) for when in ("setup", "call")]
    ledger = Ledger()
    last = report(when="teardown", properties=[row(verdict="broken", reason="late")])
    ledger.add_test([*phases, last], [], seen(traces.request(moved=64)))
    assert [each.reason for each in ledger.objections()] == ["late"]


@pytest.mark.parametrize(
    ("promise", "writes", "kept"),
    [
        ("kIODirectionIn", [True], True),
        ("kIODirectionIn", [False], False),
        ("kIODirectionOut", [False], True),
        ("kIODirectionOut", [True], False),
        ("kIODirectionInOut", [True, False], True),
        ("kIODirectionInOut", [True], False),
        ("capacity", [False], True),
    ],
)
def test_direction_by_a_tests_word_needs_bytes_that_went_this_way(
    promise: str, writes: list[bool], kept: bool
) -> None:
    ledger = Ledger()
    host = seen(*(traces.request(n, write=way, moved=64) for n, way in enumerate(writes, 1)))
    ledger.add_test([report(properties=[row(promise=promise)])], [], host)
    assert (ledger.promises[0].verdict == "kept") == kept
    assert kept or " a byte during this test" in ledger.promises[0].reason


def test_refusal_as_evidence_is_one_that_was_announced() -> None:
    said = {**row(), "by": "test", "evidence": "refusal"}
    expects = ("expects", {"reasons": ["UNMAPPED"], "first": 0, "last": 9})
    for properties, kept in (([expects], "kept"), ([], "unattested")):
        ledger = Ledger()
        host = seen(traces.request(reason="UNMAPPED"), properties=properties)
        ledger.add_test([report(properties=[said])], [], host)
        assert ledger.promises[0].verdict == kept


def test_kind_of_evidence_that_there_is_not() -> None:
    ledger = Ledger()
    said = {**row(), "by": "test", "evidence": "hope"}
    ledger.add_test([report(properties=[said])], [], seen(traces.request(moved=1)))
    assert "unknown kind of evidence: 'hope'" in ledger.objections()[0].reason


def test_claim_is_a_row_by_evidence() -> None:
    claim = {
        "promise": "kIODirectionIn",
        "kind": "direction",
        "asked": "in",
        "buffer": "rx",
        "made": "t.py:3",
        "ranges": [[0x1000, 64]],
        "first": 0,
        "direction": "kIODirectionIn",
    }
    for moved, verdict_of_it in ((64, "kept"), (0, "unattested")):
        ledger = Ledger()
        said = report()
        said.user_properties = [("claim", claim)]
        host = seen(traces.request(moved=moved), properties=said.user_properties)
        ledger.add_test([said], ["kIODirectionIn"], host)
        (found,) = ledger.promises
        assert (found.verdict, found.by) == (verdict_of_it, "evidence")
        assert said.failed == (verdict_of_it != "kept")
    assert "by the test" not in ledger.table()


def test_objection_to_the_run_counts_as_a_failure() -> None:
    ledger = Ledger()
    ledger.add_failure("refused DMA", "late")
    assert (ledger.failed, [each.test for each in ledger.of_the_run()]) == (1, [AFTER])


def test_failed_part_fails_its_test() -> None:
    part, whole = report("failed", longrepr="E   part"), report()
    setattr(part, "context", None)  # noqa: B010
    ledger = Ledger()
    ledger.add_test([report(when="setup"), part, whole, report(when="teardown")], [])
    assert whole.longreprtext == "contains 1 failed subtest"
    assert (ledger.passed, ledger.failed) == (0, 2), "as pytest counts"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 139, 200])
def test_table_keeps_to_its_width(width: int) -> None:
    ledger = Ledger(known_gaps=KnownGaps())
    long = {**row("unattested"), "asked": "a" * 200, "attested": "b" * 200, "promise": "c" * 99}
    for _ in range(12):
        ledger.add_test([report(properties=[long])], [])
    table = ledger.table(width)
    assert max(map(len, table.splitlines())) <= width
    assert (table.count("a"), table.count("b")) >= (200, 200), "whole"
    (line,) = [line for line in table.splitlines() if "unattested x12, by the test" in line]
    assert line.endswith("unattested x12, by the test") == (width >= 100)
    assert line.startswith("unattested x12, by the test:") == (width < 100)


def test_narrow_screen_has_rows_without_columns() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[row() | {"asked": "an alignment of 64 bytes"}])], [])
    assert ledger.table(40).splitlines() == [
        "kept, by the test: alignment",
        "  asked: an alignment of 64 bytes",
        "  attested: low 12 bits 0",
    ]
    assert "\x1b[32mkept, by the test: alignment" in ledger.table(40, colours=True)


def test_kept_cell_without_end_is_cut_and_says_where_it_is_whole() -> None:
    words = "bytes " * 2000
    for verdict, shown in (("kept", 1500), ("broken", 7000)):
        ledger = Ledger(known_gaps=KnownGaps())
        ledger.add_test([report(properties=[row(verdict) | {"attested": words}])], [])
        assert "attestations.json)" in " ".join(ledger.table().split())
        assert len(ledger.table()) < shown


def test_each_verdict_has_a_style_and_its_word() -> None:
    for verdict in VERDICTS:
        ledger = Ledger(known_gaps=KnownGaps())
        ledger.add_test([report(properties=[row(verdict)])], [])
        assert re.search(rf"\x1b\[[0-9;]+m{verdict}, by the test", ledger.table(colours=True))
        assert f"{verdict}, by the test" in ledger.table()


def test_verdicts_have_colours_for_a_terminal_alone() -> None:
    ledger = Ledger()
    ledger.add_test([report(properties=[row()])], ["alignment"])
    assert "\x1b" not in ledger.table()
    assert "\x1b[32mkept, by the test" in ledger.table(colours=True)


def test_rows_that_rest_on_a_walk_say_by_whose_word() -> None:
    ledger = Ledger(known_gaps=KnownGaps())
    walked, other = {**row(), "evidence": "walk"}, {**row(promise="MSI-X"), "evidence": "interrupt"}
    ledger.add_test([report(properties=[walked, other])], [], HostView(guests_word="by its word"))
    assert [each.attested for each in ledger.promises] == [
        "low 12 bits 0; by its word",
        "low 12 bits 0",
    ]
    ledger.promises.clear()
    ledger.add_test([report(properties=[walked])], [], HostView())
    assert ledger.promises[0].attested == "low 12 bits 0"


def test_notes_are_shown_once(tmp_path: Path) -> None:
    ledger = Ledger(known_gaps=KnownGaps())
    ledger.add_test([report(properties=[row()])], [])
    assert "note:" not in ledger.table()
    ledger.notes += ["by the guest's word"] * 2
    assert ledger.table().count("note: by the guest's word") == 1
    ledger.write(tmp_path / "rows.json", {})
    assert json.loads((tmp_path / "rows.json").read_text())["notes"] == ["by the guest's word"]
