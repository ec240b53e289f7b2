# SPDX-License-Identifier: Apache-2.0
"""A model that does not answer is named, with its access; one that is slow is left alone."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device import watchdog
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.vfio_user.framing import Message
from dma_rehearsal.device.vfio_user.messages import Command, Flags, Header
from dma_rehearsal.device.vfio_user.turn import Action, RegionAccess, Turn
from dma_rehearsal.device.watchdog import PATIENCE_S, UNWATCHED_S, Watchdog, Watched, describe
from examples.timer import TimerDevice
from tests.unit.device.hanging import Reg
from tests.unit.vfio_user.client import RawClient

ROOT = Path(__file__).parents[3]
READ = RegionAccess(0, 8, 4, None)


class Clock:
    """A time that tests set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A watchdog, a turn that it watches, and a clock."""

    def __init__(self, stream: socket.socket) -> None:
        self.turn = Turn(threading.get_ident(), stream=stream)
        self.clock = Clock()
        watched = Watched(self.turn, "endpoint", lambda region, offset: f"BAR{region} {offset:#x}")
        self.dog = Watchdog([watched], PATIENCE_S, clock=self.clock)

    def let_pass(self, seconds: float, longest_s: float = 1.0) -> str | None:
        """Look once a second, and return the first complaint."""
        for _ in range(round(seconds)):
            self.clock.now += 1
            if (said := self.dog.look(longest_s)) is not None:
                return said
        return None


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def stage(sockets: tuple[socket.socket, socket.socket]) -> Stage:
    return Stage(sockets[0])


def message(command: int = Command.REGION_READ, flags: int = 0) -> Message:
    return Message(Header(1, command, 32, Flags(flags), 0), b"")


def test_read_that_is_not_answered(stage: Stage) -> None:
    stage.turn.work, stage.turn.access = message(), READ
    said = stage.let_pass(PATIENCE_S + 2)
    assert said is not None
    first, *stack = said.splitlines()
    assert first.startswith("endpoint does not answer: a read of BAR0 0x8 (4 bytes), for 4.0 s")
    assert any("test_watchdog.py" in line for line in stack)


def test_idle_device_and_one_that_answers_each(stage: Stage) -> None:
    assert stage.let_pass(100) is None
    for _ in range(100):
        stage.turn.work, stage.turn.access = message(), READ  # another of the same each time
        assert stage.let_pass(PATIENCE_S - 1) is None


def test_posted_write_may_last_while_nobody_waits(
    stage: Stage, sockets: tuple[socket.socket, socket.socket]
) -> None:
    stage.turn.work = message(Command.REGION_WRITE, Flags.NO_REPLY)
    stage.turn.access = RegionAccess(0, 0, 4, b"\1\0\0\0")
    assert stage.let_pass(UNWATCHED_S / 2) is None
    sockets[1].send(b"a read behind it")
    assert stage.let_pass(PATIENCE_S - 1) is None
    said = stage.let_pass(2)
    assert said is not None
    assert said.startswith("endpoint does not answer: a write of 0x1 to BAR0 0x0 (4 bytes)")


def test_read_that_was_received_with_the_write_before_it_is_awaited(stage: Stage) -> None:
    """The server takes what it gets in one go; nothing of it is in the socket any more."""
    stage.turn.work = message(Command.REGION_WRITE, Flags.NO_REPLY)
    stage.turn.inbox = [message()]
    assert stage.let_pass(PATIENCE_S + 2) is not None


def test_posted_write_does_not_last_for_ever(stage: Stage) -> None:
    stage.turn.work = message(Command.REGION_WRITE, Flags.NO_REPLY)
    assert stage.let_pass(UNWATCHED_S - 1) is None
    assert stage.let_pass(3) is not None


def test_process_that_was_stopped_loses_one_tick(stage: Stage) -> None:
    stage.turn.work = message()
    assert stage.let_pass(1) is None
    stage.clock.now += 3600
    assert stage.let_pass(1) is None


def test_timer_that_hangs_is_named(
    stage: Stage, sockets: tuple[socket.socket, socket.socket]
) -> None:
    stage.turn.work, stage.turn.access = Action("a timer"), READ
    sockets[1].send(b"a read behind it")
    said = stage.let_pass(PATIENCE_S + 2)
    assert said is not None
    assert said.startswith("endpoint does not answer: a timer, for")


@pytest.mark.parametrize(("command", "words"), [(Command.DEVICE_RESET, "DEVICE_RESET"), (99, "99")])
def test_command_that_hangs_is_named(stage: Stage, command: int, words: str) -> None:
    stage.turn.work = message(command)
    assert words in str(stage.let_pass(PATIENCE_S + 2))


def test_first_of_two_that_hang_is_told_first() -> None:
    turns, clock = [Turn(), Turn()], Clock()
    names = ("platform", "endpoint")
    dog = Watchdog(
        [Watched(turn, name, lambda *_: "x") for turn, name in zip(turns, names, strict=True)],
        PATIENCE_S,
        clock=clock,
    )
    said = None
    for second in range(10):
        turns[second == 0].work = turns[second == 0].work or message()
        clock.now += 1
        said = said or dog.look(1)
    assert said is not None
    assert [line.split()[0] for line in said.splitlines()] == ["endpoint", "platform"]


def test_access_is_described() -> None:
    assert describe(READ, "BAR0 0x8 (STATUS)") == "a read of BAR0 0x8 (STATUS) (4 bytes)"
    write = RegionAccess(0, 8, 2, b"\x34\x12")
    assert describe(write, "BAR0 0x8") == "a write of 0x1234 to BAR0 0x8 (2 bytes)"
    long = RegionAccess(2, 0, 64, b"\xaa" * 64)
    assert describe(long, "BAR2 0x0").startswith("a write of 64 bytes, aa aa")


def test_places_have_their_registers_names() -> None:
    device: Endpoint = TimerDevice()
    names = [device.location(0, offset) for offset in (0, 2, 0x800)]
    assert names[0] == f"BAR0 0x0 ({device.registers(0).name(0)})"
    assert names[1] == f"BAR0 0x2 ({device.registers(0).name(0)})"
    assert names[2] == "BAR0 0x800"
    assert device.location(7, 4) == "configuration space 0x4"


def hang(
    folder: Path, offset: int, *, write: bool, device: str = "Hanging", socket: str = "e"
) -> tuple[int, str]:
    """Access a register of a model that hangs; return the process's status and what it said."""
    process = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "dma_rehearsal.device",
                "--endpoint",
                f"tests.unit.device.hanging:{device}",
            ),
            *("--endpoint-socket", str(folder / "e"), "--platform-socket", str(folder / "p")),
            *("--patience", "0.4"),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with RawClient(folder / socket) as client, contextlib.suppress(OSError, EOFError):
            if write:
                client.write32(0, offset, 0x55)
            client.read32(0, offset)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, said


@pytest.mark.parametrize(
    ("offset", "write", "words", "function"),
    [
        (Reg.DOORBELL, True, "a write of 0x55 to BAR0 0x0 (DOORBELL) (4 bytes)", "write_doorbell"),
        (Reg.STATUS, False, "a read of BAR0 0x4 (STATUS) (4 bytes)", "read_status"),
        (Reg.TIMER, True, "a timer", "write_doorbell"),
        (Reg.POST, True, "posted work, Hanging._compute", "write_doorbell"),
    ],
)
def test_process_of_a_model_that_hangs_ends_and_says_where(
    tmp_path: Path, offset: int, write: bool, words: str, function: str
) -> None:
    status, said = hang(tmp_path, offset, write=write)
    assert status == watchdog.STATUS
    assert f"endpoint {watchdog.WORDS}{words}, for " in said
    assert f"in {function}" in said


def test_the_function_of_a_card_that_hangs_is_named(tmp_path: Path) -> None:
    status, said = hang(tmp_path, Reg.DOORBELL, write=True, device="HangingCard", socket="e.1")
    assert status == watchdog.STATUS
    assert f"endpoint.1 {watchdog.WORDS}a write of 0x55 to BAR0 0x0 (DOORBELL)" in said
    assert f"endpoint.0 {watchdog.WORDS}" not in said
