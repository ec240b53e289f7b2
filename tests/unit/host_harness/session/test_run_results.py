# SPDX-License-Identifier: Apache-2.0
"""A run's result: from reports, promises and findings, to the files of OUTPUT and junit.xml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest

from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.formats.run_result import Outcome, Place, RunResult
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict, Status
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.run_results import RunResults
from dma_rehearsal.host_harness.verdict.driver_findings import DriverFinding
from dma_rehearsal.host_harness.verdict.promise import Promise

NODEID = "guest_tests/test_a.py::test_x"
FINDING = DriverFinding(
    "DriverReportKind.X", "my_send at my.c:88", "twice", "", "", "twice\n  next: "
)


def report(
    outcome: Literal["passed", "failed", "skipped"] = "passed",
    when: Literal["setup", "call", "teardown"] = "call",
    longrepr: Any = None,
    **more: Any,
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=NODEID,
        location=("guest_tests/test_a.py", 4, "test_x"),
        keywords={},
        outcome=outcome,
        longrepr=longrepr,
        when=when,
        **more,
    )


def result(results: RunResults, **changes: Any) -> RunResult:
    facts: dict[str, Any] = {"reason": "", "root": Path.cwd(), "where": "guest_tests", **changes}
    return results.result(Status.FAILED, facts.pop("promises", []), {}, **facts)


def test_the_worst_phase_decides_and_the_durations_add_up() -> None:
    results = RunResults()
    results.add(report(when="setup", duration=0.25))
    results.add(report("failed", longrepr="guest_tests/test_a.py:9: x\nE   bad", duration=0.5))
    results.add(report("failed", "teardown", "left open", duration=0.25))
    (case,) = result(results).cases
    assert (case.outcome, case.seconds, case.reason) == (Outcome.FAILED, 1.0, "bad")
    assert "left open" in case.text
    assert case.place == Place("guest_tests/test_a.py", 9)


def test_a_failure_elsewhere_names_the_tests_own_line() -> None:
    results = RunResults()
    results.add(report("failed", longrepr="/lib/other.py:9: x"))
    (case,) = result(results).cases
    assert case.place == Place("guest_tests/test_a.py", 5)


def test_captured_output_and_the_hosts_words_are_in_the_text() -> None:
    results = RunResults()
    results.add(report("failed", longrepr="bad", sections=[("What the host saw", "a leak")]))
    assert result(results).cases[0].text == "bad\n--- What the host saw ---\na leak"


def test_properties_are_texts_and_numbers_alone() -> None:
    """The guest's own words on promises are dictionaries; the ledger has the verdicts."""
    results = RunResults()
    words = [("promise", {"verdict": "kept"}), ("vm", "2"), ("clock", 1.5)]
    results.add(report(user_properties=words))
    promises = [
        Promise("alignment", "", "", "kept", "", NODEID),
        Promise("alignment", "", "", "broken", "", NODEID, xfail="known"),
        Promise("other", "", "", "kept", "", "another"),
    ]
    (case,) = result(results, promises=promises).cases[:1]
    assert case.properties == (("vm", "2"), ("clock", "1.5"))
    assert case.promises == {"alignment": "broken (xfail) x1, kept x1"}


def test_findings_about_a_driver_have_the_paths_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "my.c").touch()
    results = RunResults()
    results.add(report("failed", longrepr="bad"))
    results.add_findings(NODEID, [FINDING])
    for sources in ["driver"], ["driver/my.c"]:
        (finding,) = result(results, sources=sources).cases[0].findings
        assert finding.place == Place("driver/my.c", 88)
    (finding,) = result(results).cases[0].findings
    assert finding.place == Place("my.c", 88)


def test_paths_start_at_a_jobs_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    results = RunResults()
    results.add(report("failed", longrepr="bad"))
    (case,) = result(results, root=tmp_path / "sub").cases
    assert case.place == Place("sub/guest_tests/test_a.py", 5)


def made(tmp_path: Path, output: str) -> Run:
    options = run_options.parse({"output": output, "seed": "5"})
    run = Run(options, Progress(quiet=True), tmp_path, tests=GuestTests(tmp_path, ("t",)))
    run.open_folder()
    run.begin_outputs()
    return run


def test_a_run_writes_its_files_and_junit_xml(tmp_path: Path) -> None:
    run = made(tmp_path, f"sarif={tmp_path / 'r'},lava")
    run.results.add(report())
    run.ledger.passed = 1
    assert run.conclude(Status.PASSED) is Status.PASSED
    assert json.loads((tmp_path / "r").read_text())["runs"][0]["results"] == []
    assert (
        run.outputs.printed[-1] == "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=dma-rehearsal RESULT=pass>"
    )
    assert run.folder is not None
    suite = ElementTree.parse(run.folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    facts = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert (facts["seed"], facts["status"]) == ("5", "0")
    assert facts["options"] == "seed=5"


def test_a_run_without_a_verdict_says_why(tmp_path: Path) -> None:
    run = made(tmp_path, f"tap={tmp_path / 'r'}")
    assert "Bail out! the run did not end" in (tmp_path / "r").read_text()
    run.results.add(report())
    run.error = NoVerdict("test", "QEMU ended")
    assert run.conclude(Status.FAILED) is Status.NO_VERDICT
    assert "Bail out! test: QEMU ended" in (tmp_path / "r").read_text()


def test_a_file_that_is_lost_at_the_end_makes_a_pass_status_3(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    run = made(tmp_path, f"tap={tmp_path / 'sub' / 'r'}")
    run.results.add(report())
    run.ledger.passed = 1
    (tmp_path / "sub" / "r").unlink()
    (tmp_path / "sub").rmdir()
    assert run.conclude(Status.PASSED) is Status.ENVIRONMENT
    assert "tap could not be written" in "\n".join(run.verdict())
    assert run.folder is not None
    assert (run.folder / "status").read_text() == "3\n"


def test_an_objection_that_no_test_owns_is_a_case_that_failed(tmp_path: Path) -> None:
    run = made(tmp_path, f"tap={tmp_path / 'r'}")
    run.results.add(report())
    run.ledger.add_failure("refused DMA", "while no test ran")
    assert run.conclude(Status.PASSED) is Status.FAILED
    assert "broken: refused DMA: while no test ran" in (tmp_path / "r").read_text()
