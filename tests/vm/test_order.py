# SPDX-License-Identifier: Apache-2.0
"""Orders that a seed draws, and the runs that compare them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import order
from dma_rehearsal.host_harness.environment.payload import SOURCE, GuestTests
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.session import schedule
from tests.runs import LIMIT_S, clean_environment


def test_seed_draws_the_order() -> None:
    items = list(range(50))
    first = schedule.shuffled(items, 7)
    assert sorted(first) == items
    assert first == schedule.shuffled(items, 7) != items
    assert first != schedule.shuffled(items, 8)
    assert schedule.shuffled([], 7) == []


def test_seed_draws_the_sample() -> None:
    items = list(range(50))
    first = schedule.sample(items, 10, 7)
    assert len(set(first)) == 10
    assert first == schedule.sample(items, 10, 7) != schedule.sample(items, 10, 8)
    assert sorted(schedule.sample(items[:3], 10, 7)) == items[:3]


def test_order_is_an_option_and_no_other_word() -> None:
    assert run_options.parse({}).order == "collected"
    assert run_options.parse({"order": "shuffled"}).order == "shuffled"
    with pytest.raises(UsageError, match="ORDER=random is not an order"):
        run_options.parse({"order": "random"})


@pytest.mark.parametrize("name", ["order", "keep", "gdb"])
def test_what_is_for_one_run_is_refused(tmp_path: Path, name: str) -> None:
    given = run_options.parse({name: "shuffled" if name == "order" else "1"})
    with pytest.raises(UsageError, match="are for one run"):
        order.run(given, GuestTests(), 1, tmp_path, [])
    assert not list(tmp_path.iterdir())


DEPENDS = """
import pytest

BEFORE = []

@pytest.mark.parametrize("number", range(6))
def test_first(number, attest):
    assert not BEFORE
    BEFORE.append(number)

def test_every_time(): ...
"""


def run_order(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dma_rehearsal.host_harness", "order", *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(SOURCE), SEED="7", **settings),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


@pytest.mark.vm
def test_test_that_depends_on_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_depends.py").write_text(DEPENDS)
    done = run_order(tmp_path, "--tests", "guest_tests", "--sample", "7")
    assert done.returncode == 1
    rows = {
        match[1]: re.split(r" *\| *", match[2])
        for match in re.finditer(r"^\S+::(\S+) +\| +\| (.*)$", done.stdout, re.M)
    }
    # Each of them passes alone, and one in each order.
    assert "test_every_time" not in rows
    assert {row[2] for row in rows.values()} == {"passed"}
    assert len(rows) >= 5
    assert "again: make test-order SEED=7 N=7" in done.stdout


@pytest.mark.vm
def test_tests_that_depend_on_nothing_agree(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_sound.py").write_text("def test_sound(): ...\n")
    done = run_order(tmp_path, "--tests", "guest_tests")
    assert done.returncode == 0
    assert "1 tests in two orders and 1 of them alone: the same verdicts" in done.stdout
    statuses = (tmp_path / "build" / "runs" / "order").glob("*/latest/status")
    assert [path.read_text() for path in statuses] == ["0\n"] * 3


@pytest.mark.vm
def test_failure_in_every_order_is_no_difference_and_no_success(tmp_path: Path) -> None:
    (tmp_path / "guest_tests").mkdir()
    (tmp_path / "guest_tests" / "test_fails.py").write_text("def test_fails(): assert False\n")
    done = run_order(tmp_path, "--tests", "guest_tests")
    assert done.returncode == 1
    assert "the same verdicts" in done.stdout
    assert "the run in shuffled order itself did not pass" in done.stdout


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"QEMU": "/bin/false"}, 3, "the run in collected order ended with 3"),
        ({"FAULT": "nonsense"}, 2, "there is no fault"),
        ({"ORDER": "shuffled"}, 2, "are for one run"),
    ],
)
def test_run_that_cannot_be_is_no_comparison(
    tmp_path: Path, settings: dict[str, str], status: int, words: str
) -> None:
    done = run_order(tmp_path, **settings)
    assert done.returncode == status
    assert words in done.stderr
