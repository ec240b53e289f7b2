# SPDX-License-Identifier: Apache-2.0
"""JUnit XML, read by junitparser; and its counts are those of pytest's own file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from dma_rehearsal.host_harness.formats import junit
from dma_rehearsal.host_harness.formats.run_result import Outcome, RunResult
from dma_rehearsal.host_harness.process.errors import Status
from dma_rehearsal.host_harness.session.run_results import RunResults
from tests.unit.host_harness.formats.results import (
    FACTS,
    GREEN,
    HOSTILE,
    NOT_GREEN,
    RED,
    bad,
    hostile,
)

pytest_plugins = ["pytester"]


def read(result: RunResult) -> JUnitXml:
    return JUnitXml.fromstring(junit.write(result).encode())


def check(result: RunResult) -> JUnitXml:
    """Read a result; its verdicts are those of the model."""
    found = read(result)
    (suite,) = found
    cases = list(suite)
    failed = [any(isinstance(r, Failure | Error) for r in each.result) for each in cases]
    assert failed == bad(result.cases)
    skipped = [any(isinstance(r, Skipped) for r in each.result) for each in cases]
    assert skipped == [e.outcome in (Outcome.SKIPPED, Outcome.XFAILED) for e in result.cases]
    counts = result.counts()
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (
        len(cases),
        counts[Outcome.FAILED],
        counts[Outcome.ERROR],
        counts[Outcome.SKIPPED] + counts[Outcome.XFAILED],
    )
    names = [(each.classname, each.name) for each in cases]
    assert len(set(names)) == len(names)
    return found


@pytest.mark.parametrize("result", [GREEN, *NOT_GREEN.values()])
def test_a_reader_sees_each_verdict(result: RunResult) -> None:
    check(result)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ERROR, Outcome.SKIPPED])
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_hostile_text_forges_nothing(text: str, outcome: Outcome) -> None:
    check(hostile(text, outcome))


@given(st.text(max_size=60), st.sampled_from(list(Outcome)))
def test_no_text_forges_anything(text: str, outcome: Outcome) -> None:
    check(hostile(text, outcome))


def test_the_run_and_its_tests_have_properties() -> None:
    (suite,) = read(RED)
    properties = {each.get("name"): each.get("value") for each in suite._elem.find("properties")}
    assert properties == {**FACTS, "status": "1"}
    first, second, *_ = suite
    own = [(each.get("name"), each.get("value")) for each in first._elem.iter("property")]
    assert own == [("vm", "1"), ("promise: kIODirectionIn", "kept x2")]
    assert (first.classname, first.name, first.time) == ("guest_tests.test_a", "test_in[64]", 0.25)
    assert (second.classname, second.name) == ("guest_tests.test_a.TestRing", "test_out")


TESTS = """
import pytest

@pytest.fixture
def broken_before():
    raise RuntimeError("not set up")

@pytest.fixture
def broken_after():
    yield
    raise RuntimeError("left open")

def test_passes(record_property):
    record_property("vm", "1")
def test_fails():
    assert [1] == [2]
def test_skips():
    pytest.skip("in the call")
@pytest.mark.skip(reason="by its mark")
def test_skipped(): ...
@pytest.mark.xfail(reason="known")
def test_xfails():
    raise ValueError("as expected")
@pytest.mark.xfail(reason="known")
def test_xpasses(): ...
@pytest.mark.xfail(reason="known", strict=True)
def test_xpasses_strictly(): ...
def test_error_before(broken_before): ...
def test_error_after(broken_after): ...
class TestInClass:
    @pytest.mark.parametrize("size", [1, 2])
    def test_sizes(self, size): ...
def test_parts(subtests):
    with subtests.test("first"):
        assert False, "the first part"
"""


def test_counts_and_names_are_those_of_pytests_own_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pytester.path)
    results = RunResults()

    class Plugin:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            results.add(report)

    pytester.makepyfile(test_all=TESTS)
    pytester.inline_run("--junitxml=own.xml", "-p", "no:cacheprovider", plugins=[Plugin()])
    own = ElementTree.parse("own.xml").getroot().find("testsuite")
    result = results.result(Status.FAILED, [], {}, reason="", root=Path.cwd(), where=".")
    ours = ElementTree.fromstring(junit.write(result)).find("testsuite")
    assert own is not None
    assert ours is not None

    def told(suite: ElementTree.Element) -> list[tuple[str | None, str, str]]:
        return [  # the failure of a part is in pytest's a second one of its test
            (case.get("classname"), str(case.get("name")).partition(",")[0], each.tag)
            for case in suite.iter("testcase")
            for each in case
            if each.tag in ("failure", "error", "skipped")
        ]

    assert sorted(told(ours)) == sorted(told(own))
    for name in ("tests", "errors", "failures", "skipped"):
        assert ours.get(name) == own.get(name)
    failed = next(each for each in result.cases if each.name == "test_fails")
    assert failed.reason == "assert [1] == [2]"
    assert failed.place is not None
    assert (failed.place.file, failed.place.line) == ("test_all.py", 15)
    known = next(each for each in result.cases if each.name == "test_skips")
    assert known.reason == "in the call"
