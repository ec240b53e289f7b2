# SPDX-License-Identifier: Apache-2.0
"""The watcher lets held DMA go when the guest is idle, and tells a release that does nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dma_rehearsal.guest.testkit import hold_watcher
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.hold_watcher import HoldWatcher, only_this_runs
from tests.unit.guest.testkit.fake_kernel import FakeBoard


class Idle:
    """Answers whether the guest is idle, from a list; then always the same. ``asked`` counts."""

    def __init__(self, *answers: bool, then: bool) -> None:
        self.answers, self.then, self.asked = list(answers), then, 0
        self.enough = threading.Event()

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked > 20:
            self.enough.set()
        return self.answers.pop(0) if self.answers else self.then


def test_the_load_tells_who_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = tmp_path / "loadavg"
    monkeypatch.setattr(hold_watcher, "LOAD", load)
    load.write_text("0.00 0.01 0.05 1/80 1234\n")
    assert only_this_runs()
    load.write_text("0.00 0.01 0.05 2/80 1234\n")
    assert not only_this_runs()


def test_it_waits_until_nothing_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Idle(False, True, False, then=True)
    monkeypatch.setattr(hold_watcher, "only_this_runs", idle)
    board = FakeBoard()
    board.held = 1
    with HoldWatcher(board) as watcher:
        assert board.went.wait(30)
    assert idle.asked >= 5
    assert watcher.released == 1
    watcher.check()


def test_it_does_not_release_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Idle(then=False)
    monkeypatch.setattr(hold_watcher, "only_this_runs", idle)
    board = FakeBoard()
    board.held = 1
    with HoldWatcher(board) as watcher:
        assert idle.enough.wait(30)
        assert board.held == 1
    assert not watcher.released
    assert board.held == 0, "the end lets everything go"


def looks(board: FakeBoard, count: int) -> HoldWatcher:
    """Return a watcher that has looked so many times, without its thread."""
    watcher = HoldWatcher(board)
    for _ in range(count):
        watcher._look()
    return watcher


def test_a_release_that_does_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_watcher, "only_this_runs", lambda: True)
    board = FakeBoard()
    board.deaf, board.held = True, 1
    watcher = looks(board, 30)
    watcher.check()
    board.expired = 1
    watcher._look()
    with pytest.raises(CheckFailed, match="1 actions went by themselves"):
        watcher.check()


def test_an_action_that_a_busy_guest_let_wait_may_go_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hold_watcher, "only_this_runs", lambda: False)
    board = FakeBoard()
    board.held = 1
    watcher = looks(board, 30)
    board.expired = 1
    watcher._look()
    watcher.check()


def test_one_action_after_the_other_is_not_a_vain_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_watcher, "only_this_runs", lambda: True)
    board = FakeBoard()
    watcher = HoldWatcher(board)
    for _ in range(30):
        board.held = 1
        watcher._look()
    assert watcher.released == 30
    board.held = 0
    watcher._look()
    board.held, board.expired = 1, 1
    watcher._look()
    watcher.check()


def test_an_error_of_the_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = threading.Event()

    def fails() -> bool:
        raised.set()
        raise OSError("gone")

    monkeypatch.setattr(hold_watcher, "only_this_runs", fails)
    board = FakeBoard()
    board.held = 1
    with pytest.raises(OSError, match="gone"), HoldWatcher(board):
        assert raised.wait(30)
