# SPDX-License-Identifier: Apache-2.0
"""The file of verdicts, and the differences between runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import NoVerdict
from dma_rehearsal.host_harness.process.progress import Progress
from dma_rehearsal.host_harness.session import verdict_record
from dma_rehearsal.host_harness.session.run import Run
from dma_rehearsal.host_harness.session.verdict_record import (
    Difference,
    Recorder,
    Verdict,
    differences,
)
from dma_rehearsal.host_harness.verdict.promise import Promise

pytest_plugins = ["pytester"]

KEPT = {"alignment": {"kept": 1}}
BROKEN = {"alignment": {"broken": 1}}


def runs(**others: dict[str, Verdict]) -> Mapping[str, dict[str, Verdict]]:
    first = {"a": Verdict("passed", KEPT), "b": Verdict("skipped")}
    return {"collected": first, **others}


def test_same_verdicts_differ_in_nothing() -> None:
    shuffled = {"b": Verdict("skipped"), "a": Verdict("passed", {"alignment": {"kept": 1}})}
    assert differences(runs(shuffled=shuffled), {}) == []


@pytest.mark.parametrize(
    ("shuffled", "expected"),
    [
        (
            {"a": Verdict("failed", KEPT), "b": Verdict("skipped")},
            [Difference("a", "", {"collected": "passed", "shuffled": "failed"})],
        ),
        (
            {"a": Verdict("passed", BROKEN), "b": Verdict("skipped")},
            [Difference("a", "alignment", {"collected": "kept x1", "shuffled": "broken x1"})],
        ),
        (
            {"a": Verdict("passed", {"alignment": {"kept": 2}}), "b": Verdict("skipped")},
            [Difference("a", "alignment", {"collected": "kept x1", "shuffled": "kept x2"})],
        ),
        (
            {"a": Verdict("passed"), "b": Verdict("skipped")},
            [Difference("a", "alignment", {"collected": "kept x1", "shuffled": "-"})],
        ),
        (
            {"a": Verdict("passed", KEPT), "b": Verdict("skipped", KEPT)},
            [Difference("b", "alignment", {"collected": "-", "shuffled": "kept x1"})],
        ),
        (
            {"a": Verdict("passed", KEPT)},
            [Difference("b", "", {"collected": "skipped", "shuffled": "did not run"})],
        ),
        (
            {"a": Verdict("passed", KEPT), "b": Verdict("skipped"), "c": Verdict("passed")},
            [Difference("c", "", {"collected": "did not run", "shuffled": "passed"})],
        ),
    ],
    ids=["outcome", "verdict", "rows", "row lost", "row more", "test lost", "test more"],
)
def test_each_difference_is_found(shuffled: dict[str, Verdict], expected: list[Difference]) -> None:
    assert differences(runs(shuffled=shuffled), {}) == expected


def test_run_of_a_part_is_compared_on_that_part() -> None:
    alone = {"a": Verdict("passed", KEPT)}
    assert differences(runs(alone=alone), {"alone": ["a"]}) == []
    assert differences(runs(alone=alone), {"alone": ["a", "b"]}) == [
        Difference("b", "", {"collected": "skipped", "alone": "did not run"})
    ]


def test_table_has_the_end_of_a_long_name_and_nothing_for_a_run_without_the_test() -> None:
    name = "suite/" + "x" * 100 + "[7]"
    shown = verdict_record.difference_table(
        [Difference(name, "", {"collected": "passed", "shuffled": "failed"})],
        ["collected", "shuffled", "alone"],
    ).splitlines()
    assert [cell.strip() for cell in shown[0].split("|")] == [
        *("test", "promise", "collected", "shuffled", "alone")
    ]
    assert shown[2].startswith("…xxx")
    assert "x[7] |         | passed    | failed" in shown[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(run_options.parse({}), Progress(quiet=True), tmp_path / "runs")
    run.open_folder()
    return run


TESTS = """
import pytest

def test_passes(): ...
def test_fails(): assert False
def test_skips(): pytest.skip("not here")

@pytest.mark.xfail
def test_expected(): assert False

@pytest.mark.xfail
def test_surprises(): ...

@pytest.fixture
def late():
    yield
    assert False

def test_teardown(late): ...
"""


def test_outcome_is_the_worst_of_the_phases(pytester: pytest.Pytester, run: Run) -> None:
    """A report about something else than a test that was to run does not become one."""
    pytester.makepyfile(test_it=TESTS)
    run.ledger.promises = [
        Promise("alignment", "", "", verdict, "", "test_it.py::test_passes")
        for verdict in ("kept", "kept", "broken")
    ]

    class Adds:
        def pytest_sessionfinish(self, session: pytest.Session) -> None:
            report = pytest.TestReport("elsewhere", ("", 0, ""), {}, "failed", "no", "call")
            session.config.hook.pytest_runtest_logreport(report=report)

    pytester.inline_run(plugins=[Recorder(run), Adds()])
    assert run.folder
    found = verdict_record.read(run.folder)
    assert {name.rpartition("::")[2]: each.outcome for name, each in found.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_expected": "xfailed",
        "test_surprises": "xpassed",
        "test_teardown": "failed",
    }
    passes = found["test_it.py::test_passes"]
    assert passes.promises == {"alignment": {"kept": 2, "broken": 1}}
    assert passes.of("alignment") == "broken x1, kept x2"


def test_test_that_did_not_run_has_no_verdict(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it=TESTS)
    pytester.inline_run("-x", plugins=[Recorder(run)])
    assert run.folder
    assert [each.outcome for each in verdict_record.read(run.folder).values()] == [
        "passed",
        "failed",
    ]


def test_run_without_the_file_has_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(NoVerdict, match="cannot be read"):
        verdict_record.read(tmp_path)
