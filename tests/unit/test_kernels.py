# SPDX-License-Identifier: Apache-2.0
"""Each run on each kernel, also after one that failed, and a table of all."""

from __future__ import annotations

import itertools

import pytest

from dma_rehearsal.host_harness.environment import kernel_tree
from tests import kernels
from tests.kernels import KERNELS, GuestRun, try_all

RUNS = (GuestRun("a"), GuestRun("b"))


def tried(failing: tuple[str, str] | None) -> list[tuple[str, str, str]]:
    """Return how runs on two kernels end, one of which fails."""

    def outcome(kernel: str, name: str) -> str:
        return "status 1" if (kernel, name) == failing else ""

    results = try_all(
        ("old", "new"),
        RUNS,
        builder=lambda kernel: outcome(kernel, "build"),
        runner=lambda kernel, run: outcome(kernel, run.name),
        clock=itertools.count().__next__,
    )
    assert {each.seconds for each in results} == {1}
    return [(each.kernel, each.run, each.problem) for each in results]


def test_all_are_tried_after_one_that_failed() -> None:
    assert tried(("old", "a")) == [
        ("old", "build", ""),
        ("old", "a", "status 1"),
        ("old", "b", ""),
        ("new", "build", ""),
        ("new", "a", ""),
        ("new", "b", ""),
    ]


def test_nothing_runs_on_a_kernel_whose_modules_do_not_build() -> None:
    assert [each[:2] for each in tried(("old", "build"))] == [
        ("old", "build"),
        ("new", "build"),
        ("new", "a"),
        ("new", "b"),
    ]


def test_run_of_one_kernel_is_tried_on_that_one_alone() -> None:
    runs = (GuestRun("a"), GuestRun("b", kernels=("new",)))
    results = try_all(("old", "new"), runs, builder=lambda _: "", runner=lambda *_: "")
    assert [(each.kernel, each.run) for each in results if each.run != "build"] == [
        ("old", "a"),
        ("new", "a"),
        ("new", "b"),
    ]


@pytest.mark.parametrize(("problem", "status"), [("", 0), ("status 1", 1)])
def test_status(monkeypatch: pytest.MonkeyPatch, problem: str, status: int) -> None:
    said = [kernels.Result("new", "suite", 1.0, problem)]
    monkeypatch.setattr(kernels, "try_all", lambda *_: said)
    assert kernels.main([]) == status


def test_kernels_are_those_that_can_be_named() -> None:
    assert set(KERNELS) <= set(kernel_tree.SUITES)
    assert KERNELS[0] == kernel_tree.DEFAULT
