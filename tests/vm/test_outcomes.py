# SPDX-License-Identifier: Apache-2.0
"""Every outcome that pytest knows comes through the VM as it is, and all who count agree."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.runs import Run, last_line, run_in

GUEST_TESTS = """
import warnings

import pytest


@pytest.fixture
def broken_before():
    raise RuntimeError("not set up")


@pytest.fixture
def broken_after():
    yield
    raise RuntimeError("left open")


def test_passes(): ...


def test_fails():
    assert [1, 2] == [1, 3]


def test_skips():
    pytest.skip("in the call")


@pytest.mark.skip(reason="by its mark")
def test_skipped(): ...


@pytest.mark.skipif(True, reason="by a condition")
def test_skipped_if(): ...


def test_importorskip():
    pytest.importorskip("no_such_module")


@pytest.mark.xfail(reason="known")
def test_xfails():
    raise ValueError("as expected")


@pytest.mark.xfail(reason="known")
def test_xpasses(): ...


@pytest.mark.xfail(reason="known", strict=True)
def test_xfails_strictly():
    raise ValueError("as expected")


@pytest.mark.xfail(reason="known", strict=True)
def test_xpasses_strictly(): ...


@pytest.mark.xfail(run=False, reason="would hang")
def test_does_not_run():
    raise AssertionError


def test_fails_in_the_call_by_its_own_word():
    pytest.xfail("in the call")


def test_error_before(broken_before): ...


def test_error_after(broken_after): ...


def test_fails_and_error_after(broken_after):
    assert False, "first"


def test_warns():
    warnings.warn("this is old", UserWarning)


def test_parts(request):
    subtests = request.getfixturevalue("subtests")
    with subtests.test(number=1):
        pass
    with subtests.test(number=2):
        assert False, "the second part"
"""
COUNTS = {"passed": 3, "failed": 5, "errors": 2, "skipped": 4, "xfailed": 4, "xpassed": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    project = tmp_path_factory.mktemp("project")
    (project / "test_all.py").write_text(GUEST_TESTS)
    return run_in(project, project / "runs", "--tests", "test_all.py", "-rA")


def line_of(done: Run, name: str) -> str:
    return "\n".join(re.findall(rf"^.*test_all\.py::{name} .*$", done.output, re.MULTILINE))


def test_run_ends_with_a_verdict(done: Run) -> None:
    assert done.status == 1
    assert "INTERNALERROR" not in done.output + done.errors
    assert last_line(done.output)[0] == 1


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("test_passes", "PASSED"),
        ("test_fails", "FAILED"),
        ("test_skips", "SKIPPED (in the call)"),
        ("test_skipped", "SKIPPED (by its mark)"),
        ("test_skipped_if", "SKIPPED (by a condition)"),
        ("test_importorskip", "SKIPPED (could not import"),
        ("test_xfails", "XFAIL (known)"),
        ("test_xpasses", "XPASS (known)"),
        ("test_xfails_strictly", "XFAIL (known)"),
        ("test_xpasses_strictly", "FAILED"),
        ("test_does_not_run", "XFAIL ([NOTRUN] would hang)"),
        ("test_fails_in_the_call_by_its_own_word", "XFAIL (in the call)"),
        ("test_error_before", "ERROR"),
        ("test_error_after", "ERROR"),
        ("test_fails_and_error_after", "FAILED"),
        ("test_warns", "PASSED"),
        ("test_parts", "FAILED"),
    ],
)
def test_each_outcome_has_pytests_own_word(done: Run, name: str, word: str) -> None:
    assert word[:20] in line_of(done, name)


def test_all_who_count_agree(done: Run) -> None:
    """pytest's last line, the line under the table, attestations.json; and junit.xml its way."""
    (last,) = re.findall(r"^=+ (.* in [\d.]+s.*?) =+$", done.output, re.MULTILINE)
    said = {name: int(count) for count, name in re.findall(r"(\d+) ([a-z]+)", last)}
    facts = done.attestations
    assert {name: facts[name] for name in COUNTS} == COUNTS
    assert (said.pop("warning"), said.pop("subtests")) == (1, 1)
    assert said == {**{k: v for k, v in COUNTS.items() if k != "errors"}, "errors": 2}
    assert "\n3 passed, 5 failed, 2 errors, 4 skipped, 4 xfailed, 1 xpassed\n" in done.output
    suite = ElementTree.parse(done.folder / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("failures", 0)) == COUNTS["failed"]
    assert int(suite.get("errors", 0)) == COUNTS["errors"]
    assert int(suite.get("skipped", 0)) == COUNTS["skipped"] + COUNTS["xfailed"]
    assert not re.search(r"\[1[1-9]\d%\]", done.output)


def test_failures_tell_what_happened(done: Run) -> None:
    assert "At index 1 diff: 2 != 3" in done.output, "pytest's own explanation"
    assert "RuntimeError: not set up" in done.output
    assert "RuntimeError: left open" in done.output
    assert "the second part" in done.output
    assert "The teardown failed, too" in done.output
    assert "contains 1 failed subtest" in done.output


def test_warning_is_in_the_summary(done: Run) -> None:
    assert "warnings summary" in done.output
    assert re.search(r"test_all\.py:\d+: UserWarning: this is old", done.output)


@pytest.mark.full
def test_a_failed_teardown_alone_fails_the_run(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_all.py").write_text(GUEST_TESTS)
    found = run_in(project, project / "runs", "--tests", "test_all.py", "-k", "test_error_after")
    assert found.status == 1
    facts: dict[str, Any] = json.loads((found.folder / "attestations.json").read_text())
    assert (facts["passed"], facts["failed"], facts["errors"]) == (1, 0, 1)


DROPS = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    {say}
    del items[-1]
"""


@pytest.mark.parametrize("says_so", [pytest.param(True, marks=pytest.mark.full), False])
def test_test_that_a_plugin_drops_is_missing_unless_it_says_so(
    tmp_path: Path, says_so: bool
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_all.py").write_text(GUEST_TESTS)
    say = "config.hook.pytest_deselected(items=[items[-1]])" if says_so else ""
    (project / "drops.py").write_text(DROPS.format(say=say))
    found = run_in(
        *(project, project / "runs", "--tests", "test_all.py"),
        *("-p", "drops", "-k", "test_passes or test_warns"),
    )
    if says_so:
        assert found.status == 0
        return
    assert found.status == 4
    assert "no verdict: tests: 1 of 17 tests were collected and never reported" in found.output
    assert "test_all.py::test_warns" in found.output
