# SPDX-License-Identifier: Apache-2.0
"""A change reruns the tests that it can have changed, and those that failed last."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dma_rehearsal.host_harness.cli.watch_selection import Outcome, Selection

A1, A2, B1, C1 = (
    "suite/test_a.py::one",
    "suite/test_a.py::two",
    "suite/test_b.py::one",
    "test_c.py::x",
)
A, B, C = "suite/test_a.py", "suite/test_b.py", "test_c.py"


def outcome(
    *selected: str, failed: tuple[str, ...] = (), left_out: int = 1, scope: tuple[str, ...] = ()
) -> Outcome:
    return Outcome(
        1 if failed else 0,
        scope=scope,
        selected=selected,
        left_out=left_out,
        ran=selected,
        failed=failed,
    )


@pytest.fixture
def selection() -> Selection:
    found = Selection()
    found.learn(outcome(B1, A1, A2), only=())
    return found


def test_any_change_reruns_the_files_with_selected_tests(selection: Selection) -> None:
    assert selection.files == [B, A]
    assert selection.all_words() == (B, A), "in the order of collection"


def test_change_of_a_test_file_reruns_that_file(selection: Selection) -> None:
    assert selection.after_test_files([A]) == (A,)
    assert selection.after_test_files([A, B]) == (B, A)


def test_new_test_file_may_have_selected_tests(selection: Selection) -> None:
    assert selection.after_test_files([C]) == (C,)
    selection.learn(outcome(C1), only=(C,))
    assert selection.all_words() == (B, A, C)


def test_tests_that_failed_run_again_until_they_pass(selection: Selection) -> None:
    selection.learn(outcome(B1, failed=(B1,)), only=(B,))
    assert selection.after_test_files([A]) == (B, A)
    selection.learn(outcome(A1, A2, B1), only=(B, A))
    assert selection.after_test_files([A]) == (A,)


def test_failed_test_that_did_not_run_is_still_failed(selection: Selection) -> None:
    selection.learn(outcome(B1, failed=(B1,)), only=(B,))
    stopped = Outcome(1, selected=(A1, A2, B1), ran=(A1,), failed=(A1,))  # -x
    selection.learn(stopped, only=(B, A))
    selection.learn(outcome(A1, A2), only=(A,))
    assert selection.after_test_files([A]) == (B, A)


def test_test_that_is_gone_is_not_failed_any_more(selection: Selection) -> None:
    selection.learn(outcome(A1, A2, failed=(A2,)), only=(A,))
    selection.learn(outcome(A1), only=(A,))
    assert selection.after_test_files([B]) == (B,)
    selection.learn(outcome(A1, failed=(A1,)), only=(A,))
    selection.forget(A)
    assert selection.files == [B]
    assert selection.after_test_files([B]) == (B,)


def test_run_that_collected_nothing_teaches_nothing(selection: Selection) -> None:
    selection.learn(Outcome(4), only=(A,))
    assert selection.all_words() == (B, A)
    selection.learn(Outcome(4), only=())
    assert selection.is_known


def test_whole_suite_stays_whole() -> None:
    found = Selection()
    assert not found.is_known
    assert found.all_words() == ()
    found.learn(outcome(A1, B1, left_out=0), only=())
    assert found.all_words() == (), "two VMs may share it"
    assert found.after_test_files([B]) == (B,)


@pytest.mark.parametrize(
    ("scope", "changed", "words"),
    [
        (("suite/test_a.py",), A, (A,)),
        (("./suite/",), A, (A,)),
        ((".",), A, (A,)),
        (("suite/test_a.py",), B, ()),
        (("suit",), A, ()),
        ((A1, A2), A, (A1, A2)),
        ((A1, A), A, (A,)),
    ],
)
def test_only_the_scope_of_the_user_is_collected(
    scope: tuple[str, ...], changed: str, words: tuple[str, ...]
) -> None:
    found = Selection()
    found.learn(outcome(A1, scope=scope), only=())
    assert found.after_test_files([changed]) == words


def test_changed_test_file_may_have_new_selected_tests() -> None:
    found = Selection()
    found.learn(outcome(A1, scope=("suite",)), only=())
    assert found.all_words([B]) == (A, B)
    assert found.all_words([C]) == (A,), "the user did not name it"


def test_files_of_tests_are_known_by_name_or_by_their_tests(selection: Selection) -> None:
    assert selection.is_test_file("suite/test_new.py")
    assert selection.is_test_file("suite/ring_test.py")
    assert selection.is_test_file(A)
    assert not selection.is_test_file("suite/conftest.py")
    assert not selection.is_test_file("suite/checksum.py")
    selection.learn(outcome("suite/checks.py::one"), only=("suite/checks.py",))
    assert selection.is_test_file("suite/checks.py"), "by python_files of the user's own"


def test_outcome_survives_its_way_to_the_watch() -> None:
    for each in (Outcome(4), outcome(A1, B1, failed=(A1,), scope=("suite",)), outcome()):
        assert Outcome.of(json.loads(json.dumps(dataclasses.asdict(each)))) == each
