# SPDX-License-Identifier: Apache-2.0
"""Each test is in ``make test`` or left to ``make test-all``; the summary says how a run ended."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest
from _pytest.mark.expression import Expression

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests import stages
from tests.stages import ALL, GATE, Stage

MARKS = ("vm", "matrix", "alone", "full")


def every_kind() -> list[frozenset[str]]:
    """Return each set of marks that a test can have. A cell of the matrix measures no time."""
    kinds = [
        frozenset(kind)
        for count in range(len(MARKS) + 1)
        for kind in itertools.combinations(MARKS, count)
    ]
    return [kind for kind in kinds if not {"matrix", "alone"} <= kind]


def selected(run: Sequence[Stage], kind: frozenset[str]) -> list[str]:
    """Return the stages that run a test with these marks."""

    def has(name: str, /, **_: object) -> bool:
        return name in kind

    return [
        each.name for each in run if each.marks and Expression.compile(each.marks).evaluate(has)
    ]


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: "-".join(sorted(kind)) or "plain")
def test_everything_runs_each_test_once(kind: frozenset[str]) -> None:
    assert len(selected(ALL, kind)) == 1


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: "-".join(sorted(kind)) or "plain")
def test_the_gate_runs_once_each_test_that_is_not_marked_for_the_full_run(
    kind: frozenset[str],
) -> None:
    left_out = "full" in kind or ("matrix" in kind and "vm" not in kind)
    assert len(selected(GATE, kind)) == (0 if left_out else 1)


def test_the_makefile_runs_these_stages() -> None:
    text = (SOURCE / "Makefile").read_text()
    for name in stages.RUNS:
        (recipe,) = re.findall(rf"^{name}:.*\n((?:\t.*\n)+)", text, re.M)
        assert f"-m tests.stages {name} " in recipe


def jobs(_vms: bool) -> int:
    return 2


ONE, TWO, THREE = (Stage(name, f"title of {name}", (name,)) for name in ("one", "two", "three"))


@pytest.mark.parametrize(
    ("statuses", "go_on", "last"),
    [
        ([0, 0, 0], False, "make it: all 3 stages passed in 0 s"),
        ([0, 2], False, "make it: the stage two failed, after 0 s"),
        ([0, 2, 0], True, "make it: the stage two failed, after 0 s"),
        ([1, 2, 0], True, "make it: the stages one, two failed, after 0 s"),
    ],
)
def test_the_last_line_says_how_the_run_ended(
    capsys: pytest.CaptureFixture[str], statuses: list[int], go_on: bool, last: str
) -> None:
    answers = iter(statuses)
    status = stages.run_stages(
        *("it", (ONE, TWO, THREE)),
        jobs=jobs,
        go_on=go_on,
        runner=lambda _command: next(answers),
        clock=lambda: 0.0,
    )
    assert list(answers) == [], "no stage runs after a failure of the gate"
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == last
    assert status == any(statuses)
    assert "[1/3] one: title of one" in said
    if not go_on and any(statuses):
        assert said[-2].split() == ["three", "not", "run"]


def test_options_that_select_no_test_of_a_stage_do_not_fail_it() -> None:
    of_pytest = Stage("units", "", marks="not vm")
    answers = iter([0, 5])
    run = (ONE, of_pytest)
    assert stages.run_stages("it", run, jobs=jobs, runner=lambda _command: next(answers)) == 0
    assert stages.run_stages("it", (ONE,), jobs=jobs, runner=lambda _command: 5) == 1


def test_a_stage_of_pytest_gets_its_marks_workers_and_options() -> None:
    units, vms = (next(each for each in ALL if each.name == name) for name in ("units", "vms"))
    argv = units.argv(jobs, ["-x"])
    assert argv[argv.index("-n") + 1] == "2"
    assert argv[argv.index("-m", 2) + 1] == units.marks
    assert "full" in argv
    assert argv[-1] == "-x"
    assert "loadfile" in vms.argv(jobs, []), "tests of a file share a VM"
    assert ONE.argv(jobs, ["-x"]) == ["one"]


def test_durations_are_words() -> None:
    assert [stages.words(each) for each in (0.4, 59.6, 185)] == ["0 s", "1 min 00 s", "3 min 05 s"]


@pytest.mark.parametrize(
    ("answer", "status", "last"),
    [
        (0, 0, "make it: the stage one passed in 0 s"),
        (5, 5, "make it: no test selected"),
        (1, 1, "make it: the stage one failed, after 0 s"),
    ],
)
def test_a_run_of_one_stage(
    capsys: pytest.CaptureFixture[str], answer: int, status: int, last: str
) -> None:
    one = Stage("one", "title", marks="vm")
    ran = stages.run_stages("it", [one], jobs=jobs, runner=lambda _: answer, clock=lambda: 0.0)
    assert ran == status
    assert capsys.readouterr().out.splitlines()[-1] == last
