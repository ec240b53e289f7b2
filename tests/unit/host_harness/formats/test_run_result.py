# SPDX-License-Identifier: Apache-2.0
"""The model: a run that did not pass has a case that failed, and no text is raw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dma_rehearsal.host_harness.formats import clean_text
from dma_rehearsal.host_harness.formats.run_result import Case, Outcome, RunResult
from dma_rehearsal.host_harness.formats.writers import WRITERS
from dma_rehearsal.host_harness.options.outputs import FORMATS
from dma_rehearsal.host_harness.process.errors import Status
from tests.unit.host_harness.formats.results import GREEN, HOSTILE, NOT_GREEN, RED, hostile


def test_each_format_that_can_be_asked_for_has_a_writer() -> None:
    assert list(WRITERS) == list(FORMATS)


@pytest.mark.parametrize("name", NOT_GREEN)
def test_what_did_not_pass_has_a_case_that_failed(name: str) -> None:
    assert NOT_GREEN[name].failed


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.PASSED])
def test_of_each_status_but_passed(status: Status) -> None:
    (case,) = RunResult.of(status, [], {}).failed
    assert f"status {status.value}" in case.text


def test_a_run_that_passed_has_none_and_a_failed_test_needs_no_other() -> None:
    assert not GREEN.failed
    assert [each.name for each in RED.failed] == [
        "TestRing::test_out",
        "test_up",
        "test_driver",
    ]


def test_counts_and_promises_of_all_tests() -> None:
    assert RED.counted == "1 passed, 2 failed, 1 error, 1 skipped, 1 xfailed, 1 xpassed"
    assert RED.promises() == {"kIODirectionIn": "kept x2", "kIODirectionOut": "broken x2"}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_texts_are_clean(text: str) -> None:
    for case in hostile(text).cases:
        lines = [case.nodeid, case.reason, *case.text.split("\n"), *case.promises]
        assert all(each.isprintable() for each in lines)
        assert len(case.nodeid) <= clean_text.LINE_MAX
        assert len(case.text) <= clean_text.BLOCK_MAX + 100


def test_a_long_name_keeps_its_end() -> None:
    name = clean_text.name(f"{'x' * 1000}[64-in]")
    assert name.endswith("[64-in]")
    assert len(name) == clean_text.LINE_MAX


def test_what_is_cut_off_is_counted() -> None:
    assert clean_text.lines("x" * 30, 10) == ["x" * 10, "... (20 characters left out)"]
    assert clean_text.lines("\n" * 500)[-1] == "... (100 lines left out)"


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b", ""]), max_size=12))
def test_names_become_unique(names: list[str]) -> None:
    found = clean_text.unique(names)
    assert len(set(found)) == len(found) == len(names)
    for name, own in zip(names, found, strict=True):
        assert own == name or own.startswith(f"{name}-")


def test_a_name_that_is_unique_stays() -> None:
    assert clean_text.unique(["a", "a", "a-2"]) == ["a", "a-3", "a-2"]


def test_properties_are_bounded() -> None:
    many = Case("a.py::t", Outcome.PASSED, properties=[("x", "y")] * 1000)
    assert len(RunResult.of(Status.PASSED, [many], {}).cases[0].properties) == 32
