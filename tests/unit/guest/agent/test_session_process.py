# SPDX-License-Identifier: Apache-2.0
"""A session's process ends with its session; one that cannot end is left behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.guest.agent import session_process
from dma_rehearsal.guest.agent.channel import Channel


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    yield Channel(theirs.fileno())
    ours.close()
    theirs.close()


def test_a_session_that_ends(channel: Channel) -> None:
    assert session_process.run(channel, lambda: None) == 0


def test_a_session_that_raises(channel: Channel) -> None:
    def session() -> None:
        raise ZeroDivisionError

    assert session_process.run(channel, session) == 1


def test_a_process_that_is_done_and_cannot_end_is_left_behind(
    channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_process, "_END_S", 0.05)
    path = tmp_path / "pid"

    def session() -> None:  # in the process that is forked
        path.write_text(str(os.getpid()))
        setattr(os, os._exit.__name__, lambda _status: signal.pause())

    assert session_process.run(channel, session) == 0
    child = int(path.read_text())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
