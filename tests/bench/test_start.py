# SPDX-License-Identifier: Apache-2.0
"""The benchmark of starts: turns, their figures, and edits that stay in the scratch copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.host_harness.environment.payload import SOURCE
from tests.bench import start
from tests.bench.registry import at_most, table
from tests.bench.start import COLD, RESTORED, Scratch, Timed, Turns, by_turns, rows

TURNS = Turns(
    [Timed(12, "cold", {"boot": 7, "tests": 1}), Timed(10, "cold", {"boot": 6, "tests": 1})],
    [
        Timed(3, "collected", {"restore": 1.0, "device": 0.04}),
        Timed(2, "collected", {"restore": 0.5}),
    ],
)


def test_figures_are_medians_with_their_spread_and_phases() -> None:
    restored, cold, ratio = rows("one test", TURNS, at_most(3), at_most(0.1))
    assert (restored.figure, cold.figure) == (2.5, 11)
    assert ratio.figure == pytest.approx(0.225)
    assert restored.measured == "2.0 to 3.0 s: restore 0.8, rest 1.7"
    assert cold.measured == "10.0 to 12.0 s: boot 6.5, tests 1.0, rest 3.5"
    shown = table([restored, cold, ratio]).splitlines()
    assert [line.split()[-1] for line in shown[1:]] == ["met", "s", "MISSED"]


def test_cold_and_restored_take_turns_after_one_that_does_not_count() -> None:
    states: list[str] = []

    def work(state: str) -> Timed:
        states.append(state)
        kind = "cold" if state == COLD or len(states) == 1 else "collected"
        return Timed(len(states), kind, {})

    turns = by_turns("one test", work, 2, "collected")
    assert states == [RESTORED, COLD, RESTORED, COLD, RESTORED]
    assert [each.seconds for each in turns.cold] == [2, 4]
    assert [each.seconds for each in turns.restored] == [3, 5]


def test_run_whose_state_is_gone_does_not_count() -> None:
    starts = iter(["collected", "cold", "booted", "collected"])
    turns = by_turns("one test", lambda _state: Timed(1, next(starts), {}), 1, "collected")
    assert [each.start for each in turns.restored] == ["collected"]


def test_start_that_is_not_due_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="one test: a guest's start was cold, and not collected"):
        by_turns("one test", lambda _state: Timed(1, "cold", {}), 1, "collected")


def test_edit_is_in_the_scratch_copy(tmp_path: Path) -> None:
    before = (SOURCE / start.EDITED).read_bytes()
    scratch = Scratch(tmp_path / "copy")
    scratch.edit()
    scratch.edit()
    assert (SOURCE / start.EDITED).read_bytes() == before
    edited = (tmp_path / "copy" / start.EDITED).read_bytes()
    assert edited == before + b"\n# edit 1\n\n# edit 2\n"
    assert (tmp_path / "copy" / "dma_rehearsal" / "guest").is_symlink()
