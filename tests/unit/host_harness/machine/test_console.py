# SPDX-License-Identifier: Apache-2.0
"""The console's log is what the guest said, each character once."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.host_harness.machine.console import Console

LIMIT_S = 5.0


@contextlib.contextmanager
def console(log: Path) -> Iterator[tuple[Console, socket.socket]]:
    ours, theirs = socket.socketpair()
    watched = Console(ours, log)
    watched.start()
    with theirs:
        yield watched, theirs
    watched.stop()


def test_log_is_what_came(tmp_path: Path) -> None:
    """Character by character, as a serial line sends, and faster than anybody reads."""
    said = b"".join(b"[%d] DMAR: fault addr 0x%x\r\n" % (n, n << 12) for n in range(500))
    with console(tmp_path / "console.log") as (watched, guest):
        for place in range(len(said)):
            guest.send(said[place : place + 1])
        guest.shutdown(socket.SHUT_WR)
        watched.await_end(LIMIT_S)
        assert (tmp_path / "console.log").read_bytes() == said


@pytest.mark.parametrize(
    ("words", "attribute"),
    [
        (b"init: up\r\n", "up"),
        (b"Kernel panic - not syncing: no more\r\n", "panic"),
        (b"init: the agent ended with status 3\r\n", "agent_ended"),
    ],
)
def test_what_is_seen_stands_in_the_log(tmp_path: Path, words: bytes, attribute: str) -> None:
    with console(tmp_path / "console.log") as (watched, guest):
        guest.send(b"before\r\n" + words)
        end = time.monotonic() + LIMIT_S
        while not getattr(watched, attribute) and time.monotonic() < end:
            time.sleep(0.01)
        assert getattr(watched, attribute)
        assert words.strip() in (tmp_path / "console.log").read_bytes()


def test_caught_up_is_all_that_was_said(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with console(log) as (watched, guest):
        for number in range(200):
            guest.send(b"%d\r\n" % number)
            watched.catch_up()
            assert log.read_bytes().endswith(b"%d\r\n" % number)


def test_caught_up_with_a_console_that_has_ended(tmp_path: Path) -> None:
    with console(tmp_path / "console.log") as (watched, guest):
        guest.shutdown(socket.SHUT_WR)
        watched.await_end(LIMIT_S)
        watched.catch_up()


def test_full_disk_hides_no_panic(tmp_path: Path) -> None:
    with console(Path("/dev/full")) as (watched, guest):
        guest.send(b"Kernel panic - not syncing: no more\r\n")
        guest.shutdown(socket.SHUT_WR)
        watched.await_end(LIMIT_S)
        assert watched.panic == "Kernel panic - not syncing: no more"
    assert not os.listdir(tmp_path)  # noqa: PTH208
