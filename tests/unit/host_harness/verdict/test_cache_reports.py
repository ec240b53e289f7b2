# SPDX-License-Identifier: Apache-2.0
"""Reports that no test took, as the host finds them in the trace of a real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.cache_model.names import MAX_SMALL_SHARERS
from dma_rehearsal.device.cache_model.reports import REPORTS_MAX
from dma_rehearsal.device.layout import CacheCommand, CacheModelMode, CacheStatus, Plat
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.host_harness.verdict.cache_reports import complaint, unowned
from dma_rehearsal.host_harness.verdict.ledger import AFTER, Ledger
from tests.unit.device.cache_model.cache_board import DATA, IN, OUT, CacheBoard
from tests.unit.device.fakes import write32

LINE = 64


def forget_a_sync(board: CacheBoard) -> None:
    """Store after the sync, and release: RELEASED_DIRTY."""
    board.track(direction=OUT)
    board.done(CacheCommand.SYNC_FOR_DEVICE, length=4 * LINE)
    board.store(DATA + LINE, bytes(each ^ 0xFF for each in board.load(DATA + LINE, 4)))
    board.done(CacheCommand.UNTRACK)


def turn_off(board: CacheBoard) -> None:
    write32(board.platform, 0, Plat.CACHE_MODE, CacheModelMode.OFF)
    board.done(CacheCommand.CONFIGURE)


@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        ([], 0),
        ([forget_a_sync], 1),
        ([forget_a_sync, CacheBoard.reports], 0),
        ([CacheBoard.reports, forget_a_sync], 1),
        ([forget_a_sync, turn_off], 1),
        ([forget_a_sync, turn_off, CacheBoard.reports], 1),
        ([forget_a_sync, forget_a_sync, CacheBoard.reports, forget_a_sync], 1),
    ],
)
def test_what_nobody_took(
    tmp_path: Path, steps: list[Callable[[CacheBoard], Any]], lines: int
) -> None:
    trace = Trace(tmp_path / "trace")
    board = CacheBoard(trace=trace)
    board.configure()
    for step in steps:
        step(board)
    trace.close()
    found = unowned(json.loads(line) for line in (tmp_path / "trace").read_text().splitlines())
    assert len(found) == lines
    for line in found:
        assert line.startswith("RELEASED_DIRTY in buffer 0x5, offset 64, line 1; expected ")
        assert "expected ff ff ff ff, seen 00 00 00 00; found by UNTRACK" in line
        assert line.endswith("after the store: the one that came is older")


def _found(trace: Path) -> list[str]:
    return unowned(json.loads(line) for line in trace.read_text().splitlines())


def test_a_call_that_the_model_could_not_take_is_no_yes(tmp_path: Path) -> None:
    """The host knows what was not checked, even if the guest ignores the status."""
    trace = Trace(tmp_path / "trace")
    board = CacheBoard(trace=trace)
    board.configure()
    for tag in range(MAX_SMALL_SHARERS):
        assert board.track(tag=tag) is CacheStatus.OK
    assert board.track(tag=999) is CacheStatus.TOO_MUCH
    assert board.command(CacheCommand.CLEAN, 999, length=1) is CacheStatus.BAD_BUFFER
    board.done(CacheCommand.UNTRACK, 0)
    assert board.track(tag=999) is CacheStatus.OK
    trace.close()
    (line,) = _found(tmp_path / "trace")
    assert line.startswith("TRACK of buffer 0x3e7 is not checked: 512 buffers track offset ")


def test_reports_that_found_no_room_are_counted_once(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    board = CacheBoard(trace=trace)
    board.configure()
    board.track(direction=OUT)
    for _ in range(REPORTS_MAX + 3):
        board.done(CacheCommand.SYNC_FOR_CPU, length=LINE, direction=IN)
    while board.reports():
        pass
    board.done(CacheCommand.UNTRACK)
    trace.close()
    found = _found(tmp_path / "trace")
    assert found == ["1 more, for which it had no room"] * 3


def test_the_complaint_has_the_first_and_a_count() -> None:
    assert complaint([]) == ""
    assert complaint(["one"]).endswith("cache model: one")
    assert complaint(["one", "two", "three"]).endswith("cache model: one (and 2 more)")


def test_one_after_the_last_test_fails_the_run_and_repeats_no_test() -> None:
    ledger = Ledger()
    ledger.add_failure("cache reports", "RELEASED_DIRTY")
    assert [row.test for row in ledger.of_the_run()] == [AFTER]
    assert ledger.complaints() == [f"broken: cache reports: RELEASED_DIRTY  [{AFTER}]"]
    assert ledger.to_repeat() == []
