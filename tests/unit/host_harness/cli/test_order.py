# SPDX-License-Identifier: Apache-2.0
"""Orders that a seed draws, and comparisons that cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.cli import order
from dma_rehearsal.host_harness.environment.payload import GuestTests
from dma_rehearsal.host_harness.options import run_options
from dma_rehearsal.host_harness.process.errors import UsageError
from dma_rehearsal.host_harness.session import schedule
from tests.runs import run_order


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
