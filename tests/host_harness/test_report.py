"""The ledger: silence is never a yes, and only the reviewed list excuses an unattested promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from host_harness.errors import UsageError
from host_harness.report import UNASKED, UNSEEN, Ledger, Promise
from host_harness.reviewed import OWN, Reviewed


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
    ledger.add_report(report(properties=[row()]), ["alignment"])
    assert (ledger.passed, ledger.failed) == (1, 0)
    assert ledger.objections() == []


def test_broken_promise_fails_the_run() -> None:
    ledger = Ledger()
    ledger.add_report(
        report("failed", properties=[row("broken")], longrepr="E  alignment is broken"), []
    )
    assert [each.promise for each in ledger.objections()] == ["alignment"]
    assert ledger.failed == 1


def test_failure_before_attestation_breaks_the_marked_promise() -> None:
    ledger = Ledger()
    ledger.add_report(report("failed", longrepr="x = 1\nE   the buffer is elsewhere"), ["release"])
    (objection,) = ledger.objections()
    assert (objection.promise, objection.verdict) == ("release", "broken")
    assert objection.reason == "the buffer is elsewhere"


def test_failed_setup_breaks_the_marked_promise() -> None:
    ledger = Ledger()
    ledger.add_report(report("failed", when="setup", longrepr="E  no device"), ["MSI-X"])
    assert [each.verdict for each in ledger.objections()] == ["broken"]


def test_passing_in_silence_is_unattested_and_fails_the_run() -> None:
    ledger = Ledger()
    ledger.add_report(report(), ["capacity"])
    (objection,) = ledger.objections()
    assert (objection.promise, objection.verdict) == ("capacity", "unattested")


def test_skipping_is_unattested() -> None:
    ledger = Ledger()
    ledger.add_report(
        report("skipped", longrepr=("f", 1, "Skipped: no high memory")), ["alignment"]
    )
    (objection,) = ledger.objections()
    assert "no high memory" in objection.reason


def test_reviewed_reason_excuses_and_another_does_not(tmp_path: Path) -> None:
    promise, reason = "wiring", "nothing looks at it yet"
    listed = tmp_path / "list.toml"
    listed.write_text(f"[[unattested]]\npromise = '{promise}'\nreason = '{reason}'\n")
    ledger = Ledger(reviewed=Reviewed.load(listed))
    ledger.add_report(report(properties=[row("unattested", promise, reason)]), [])
    assert ledger.objections() == []
    assert reason in ledger.table()
    ledger.add_report(report(properties=[row("unattested", promise, "some other reason")]), [])
    assert len(ledger.objections()) == 1


def test_unsupported_needs_the_list_too() -> None:
    ledger = Ledger()
    promise, asked = min(ledger.reviewed.unsupported)
    ledger.add_report(report(properties=[row("unsupported", promise) | {"asked": asked}]), [])
    assert ledger.objections() == []
    ledger.add_report(report(properties=[row("unsupported", "kIODirectionOut")]), [])
    assert [each.promise for each in ledger.objections()] == ["kIODirectionOut"]


def test_list_speaks_of_the_own_suite_alone(tmp_path: Path) -> None:
    ledger = Ledger(reviewed=Reviewed())
    promise, asked = min(Reviewed.load(OWN).unsupported)
    ledger.add_report(report(properties=[row("unsupported", promise) | {"asked": asked}]), [])
    assert len(ledger.objections()) == 1
    (tmp_path / "list.toml").write_text("[[unattested]]\npromise = 'x'\n")
    with pytest.raises(UsageError, match=r"list\.toml"):
        Reviewed.load(tmp_path / "list.toml")


def test_kept_in_a_test_without_any_device_is_unattested() -> None:
    ledger = Ledger()
    ledger.add_report(report(properties=[row(), row("broken")]), ["alignment"], seen=False)
    assert [each.verdict for each in ledger.promises] == ["unattested", "broken"]
    assert ledger.promises[0].reason == UNSEEN


def test_words_of_a_guest_cannot_forge_rows_or_colours() -> None:
    ledger = Ledger()
    forged = row() | {"asked": "WC\nkIOMapInhibitCache | x", "attested": "\x1b[31mWC\x1b[0m"}
    ledger.add_report(report(properties=[forged]), [])
    assert ledger.promises[0].asked == "WC kIOMapInhibitCache | x"
    assert ledger.promises[0].attested == "WC"


def test_malformed_record_is_broken() -> None:
    ledger = Ledger()
    ledger.add_report(report(properties=["nonsense", {"verdict": "fine"}]), [])
    assert [each.verdict for each in ledger.objections()] == ["broken", "broken"]


def test_attestations_file_has_counts_facts_and_rows(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.add_report(report(properties=[row()]), ["alignment"])
    ledger.write(tmp_path / "a.json", {"accelerator": "tcg", "seed": 7})
    whole = json.loads((tmp_path / "a.json").read_text())
    assert whole["accelerator"] == "tcg"
    assert (whole["passed"], whole["failed"]) == (1, 0)
    assert whole["promises"] == [{**row(), "test": "suite/test_x.py::test_x", "facts": {}}]


def test_table_has_one_row_for_each_promise_and_verdict() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.add_report(report(properties=[row()]), ["alignment"])
    rows = [line for line in ledger.table().splitlines() if line.startswith("alignment")]
    assert len(rows) == 1
    assert "kept x3" in rows[0]


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
        ledger.add_report(each, [])
    (line,) = [line for line in ledger.table().splitlines() if line.startswith("alignment")]
    assert "1 bytes .. 3 bytes" in line
    assert line.endswith("kept x5")


def of_mode(mode: str = "kIOMapInhibitCache", **facts: str) -> dict[str, Any]:
    return {**row(promise=mode), "facts": {"mode": mode, **facts}}


def test_host_that_was_not_asked_has_not_agreed() -> None:
    said = of_mode(effective="UC", agreed="driver, host")
    for asked, verdict in ((True, "kept"), (False, "unattested")):
        ledger = Ledger()
        ledger.add_report(report(properties=[said]), [], witnessed=asked)
        assert [each.verdict for each in ledger.promises] == [verdict]
        assert [each.reason for each in ledger.objections()] == [UNASKED] * (not asked)
    ledger = Ledger()
    ledger.add_report(report(properties=[of_mode(agreed="driver")]), [], witnessed=False)
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
    ledger.add_report(report(properties=said), [])
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
    ledger.add_report(report(properties=[row()]), [])
    assert "mode asked" not in ledger.table()


def test_facts_that_are_none_are_a_broken_promise() -> None:
    ledger = Ledger()
    ledger.add_report(report(properties=[{**row(), "facts": ["mode"]}]), [])
    assert [each.verdict for each in ledger.promises] == ["broken"]
    assert "malformed facts" in ledger.promises[0].reason


def test_rows_stand_in_the_order_of_the_tests() -> None:
    """They arrive as tests end, which is another order where several VMs share them."""
    ledger = Ledger()
    ledger.object("cache reports", "late")
    ledger.promises += [
        Promise("alignment", asked, "", "kept", "", f"suite/test_x.py::test_x[{asked}]")
        for asked in ("4", "2", "1", "2")
    ]
    ledger.failures = [f"suite/test_x.py::test_x[{asked}]" for asked in ("4", "1")]
    ledger.arrange([f"suite/test_x.py::test_x[{asked}]" for asked in ("1", "2", "4")])
    assert [each.asked for each in ledger.promises] == ["1", "2", "2", "4", ""]
    assert ledger.failures == ["suite/test_x.py::test_x[1]", "suite/test_x.py::test_x[4]"]
    assert "1 .. 4" in ledger.table()
