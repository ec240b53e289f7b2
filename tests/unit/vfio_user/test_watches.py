# SPDX-License-Identifier: Apache-2.0
"""Watched descriptors: called in the serving thread, starving nobody, and never a spin."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user import waiter
from dma_rehearsal.device.vfio_user.messages import Command, RegionAccess
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.turn import Turn
from dma_rehearsal.device.vfio_user.watches import Watch, Watches
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.endpoint import BUFFER, Prober, Reg
from tests.unit.vfio_user.serving import serving

PATIENCE_S = 10
ASLEEP_S = 0.05


class Pipe:
    """A pipe that is watched at its end."""

    def __init__(self) -> None:
        self.end, self.other = os.pipe()
        self.read: list[bytes] = []
        self.event = threading.Event()

    def readable(self) -> None:
        self.read.append(os.read(self.end, 100))
        self.event.set()

    def write(self, data: bytes) -> None:
        os.write(self.other, data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for each in made.end, made.other:
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(each)


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def wakes() -> list[int]:
    return []


@pytest.fixture
def watches(timers: Timers, wakes: list[int]) -> Watches:
    return Watches(timers, lambda action: action(), lambda: wakes.append(1))


def test_called_while_it_is_ready(watches: Watches, pipe: Pipe, wakes: list[int]) -> None:
    watch = watches.add(pipe.end, pipe.readable)
    assert wakes == [1]
    assert not watches.look(Turn())
    pipe.write(b"a")
    assert watches.look(Turn())
    assert pipe.read == [b"a"]
    pipe.write(b"b")
    watch.close()
    watch.close()
    assert not watches.look(Turn())
    assert not watch.active


def test_what_is_left_is_told_again(watches: Watches, pipe: Pipe) -> None:
    called: list[int] = []
    watches.add(pipe.end, lambda: called.append(1))
    pipe.write(b"a")
    for _ in range(3):
        watches.look(Turn())
    assert called == [1] * 3


def test_writable_and_both(watches: Watches) -> None:
    ours, theirs = socket.socketpair()
    called: list[str] = []
    with ours, theirs:
        watches.add(ours, lambda: called.append("in"), lambda: called.append("out"))
        watches.look(Turn())
        theirs.send(b"a")
        watches.look(Turn())
        watches.table[ours.fileno()].close()
    assert called == ["out", "in", "out"]


def test_end_of_a_stream_is_the_readers(watches: Watches, pipe: Pipe) -> None:
    watches.add(pipe.end, pipe.readable)
    os.close(pipe.other)
    watches.look(Turn())
    assert pipe.read == [b""]


def test_end_of_a_stream_that_is_only_written(watches: Watches, pipe: Pipe) -> None:
    called: list[int] = []
    watches.add(pipe.other, writable=lambda: called.append(1))
    os.close(pipe.end)
    watches.look(Turn())
    assert called == [1]


def test_paused_with_the_timers(watches: Watches, pipe: Pipe, timers: Timers) -> None:
    watches.add(pipe.end, pipe.readable)
    pipe.write(b"a")
    timers.hold()
    assert not watches.look(Turn())
    timers.release()
    assert watches.look(Turn())


def test_callback_that_pauses_is_the_last(watches: Watches, timers: Timers) -> None:
    ours, theirs = socket.socketpair()
    called: list[str] = []
    with ours, theirs:
        theirs.send(b"a")
        watches.add(ours, timers.hold, lambda: called.append("out"))
        watches.look(Turn())
        watches.table[ours.fileno()].close()
    assert not called


def test_callback_that_closes_another(watches: Watches, pipe: Pipe) -> None:
    other = Pipe()
    both: list[Watch] = []
    called: list[int] = []

    def first(number: int) -> None:
        called.append(number)
        both[1 - number].close()

    both += [watches.add(pipe.end, lambda: first(0)), watches.add(other.end, lambda: first(1))]
    pipe.write(b"a")
    other.write(b"a")
    watches.look(Turn())
    assert len(called) == 1
    os.close(other.end)
    os.close(other.other)


def test_callback_that_closes_one_whose_descriptor_is_gone(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    other = Pipe()
    late = watches.add(other.end, other.readable)
    watches.add(pipe.end, late.close)
    watches.dispatch([(pipe.end, 1), (other.end, 0x20)], Turn())
    assert not caplog.records, "it was closed in time"
    os.close(other.end)
    os.close(other.other)


# Mistakes.


def test_refused(watches: Watches, pipe: Pipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs readable, writable or both"):
        watches.add(pipe.end)
    watches.add(pipe.end, pipe.readable)
    with pytest.raises(ValueError, match="is watched already: give readable and writable to one"):
        watches.add(pipe.end, pipe.readable)
    with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="a regular file"):
        watches.add(file, pipe.readable)
    with pytest.raises(ValueError, match="cannot be watched: Bad file descriptor"):
        watches.add(1 << 20, pipe.readable)


def test_descriptor_that_was_closed(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watches.add(pipe.end, pipe.readable)
    os.close(pipe.end)
    assert not watches.look(Turn())
    assert not watch.active
    assert not watches.table
    assert f"the watch of descriptor {pipe.end} (Pipe.readable) has ended" in caplog.text
    assert "close the watch before it" in caplog.text
    assert caplog.records[0].levelname == "ERROR"


def test_socket_that_was_closed(watches: Watches, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        watches.add(ours, lambda: None)
        ours.close()
        watches.look(Turn())
    assert "has ended: the descriptor was closed" in caplog.text


def test_number_that_is_another_file(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    """The callback would read what belongs to somebody else."""
    watches.add(pipe.end, pipe.readable)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), pipe.end)
        theirs.send(b"for another")
        assert not watches.look(Turn())
        watches.add(pipe.end, pipe.readable).close()  # and may be watched by its new owner
    assert not pipe.read
    assert "has ended" in caplog.text


def test_descriptor_that_closes_between_the_look_and_poll(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    watches.add(pipe.end, pipe.readable)
    watches.dispatch([(pipe.end, 0x20)], Turn())
    assert not watches.table
    assert not pipe.read
    assert "has ended" in caplog.text


def test_callback_that_fails_is_called_no_more(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise LookupError("a bug in an endpoint")

    turn = Turn()
    watches.add(pipe.end, fail)
    pipe.write(b"a")
    for _ in range(2):
        watches.look(turn)
    assert caplog.text.count("Traceback") == 1
    assert turn.work is None


def test_the_watchdog_sees_its_name(watches: Watches, pipe: Pipe) -> None:
    turn, names = Turn(), list[str]()
    watches.add(pipe.end, lambda: names.append(turn.work.name))  # type: ignore[union-attr]
    pipe.write(b"a")
    watches.look(turn)
    assert names[0].startswith("a watch, test_the_watchdog")


# The server.


def ended(prober: Prober) -> None:
    """Wait until the server, which looks before it sleeps, has ended every watch."""
    deadline = time.monotonic() + PATIENCE_S
    while prober.posted.watches.table:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_without_a_client_and_with_the_next(tmp_path: Path, prober: Prober, pipe: Pipe) -> None:
    with serving(tmp_path / "socket", prober) as path:
        time.sleep(ASLEEP_S)
        watch = prober.posted.watches.add(pipe.end, pipe.readable)
        for number in range(3):
            pipe.event.clear()
            pipe.write(b"%d" % number)
            assert pipe.event.wait(PATIENCE_S)
            with RawClient(path):
                time.sleep(ASLEEP_S)
                pipe.event.clear()
                pipe.write(b"c")
                assert pipe.event.wait(PATIENCE_S)
        watch.close()
    assert pipe.read == [b"0", b"c", b"1", b"c", b"2", b"c"]


def test_reset_leaves_it(probed: RawClient, prober: Prober, pipe: Pipe) -> None:
    prober.posted.watches.add(pipe.end, pipe.readable)
    probed.call(Command.DEVICE_RESET)
    pipe.write(b"a")
    assert pipe.event.wait(PATIENCE_S)


def test_one_that_is_always_readable_leaves_the_client_its_turns(
    probed: RawClient, prober: Prober, pipe: Pipe
) -> None:
    called: list[int] = []
    pipe.write(b"a")
    watch = prober.posted.watches.add(pipe.end, lambda: called.append(1))
    for _ in range(200):
        probed.region_read(BUFFER, Reg.BUSY, 4)
    assert called
    watch.close()


@pytest.mark.parametrize("spin", [True, False])
def test_client_that_never_pauses_leaves_it_its_turns(
    tmp_path: Path, prober: Prober, pipe: Pipe, monkeypatch: pytest.MonkeyPatch, spin: bool
) -> None:
    """Its messages are there before each is answered, so the server never has to wait."""
    called, seen = list[int](), list[int]()
    real = prober.region_read

    def read(index: int, offset: int, length: int) -> bytes:
        seen.append(len(called))
        return real(index, offset, length)

    monkeypatch.setattr(prober, "region_read", read)
    with serving(tmp_path / "socket", prober, spin=spin) as path, RawClient(path) as client:
        pipe.write(b"a")
        watch = prober.posted.watches.add(pipe.end, lambda: called.append(1))
        seen.clear()
        request = RegionAccess(0, 7, 4).pack()
        header = b"".join(
            (number + 100).to_bytes(2, "little")
            + int(Command.REGION_READ).to_bytes(2, "little")
            + (32).to_bytes(4, "little")
            + bytes(8)
            + request
            for number in range(200)
        )
        client.send_raw(header)
        for _ in range(200):
            client.receive()
        watch.close()
    rounds = [later - earlier for earlier, later in zip(seen[::50], seen[50::50], strict=False)]
    assert all(rounds), "some call within each 50 messages"


def test_server_does_not_spin_at_one_that_was_closed(
    probed: RawClient,
    prober: Prober,
    pipe: Pipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    polls: list[int] = []
    once = waiter.Waiter.once

    def counted(waiting: waiter.Waiter, events: int, *deadlines: float | None) -> tuple[bool, bool]:
        polls.append(1)
        return once(waiting, events, *deadlines)

    monkeypatch.setattr(waiter.Waiter, "once", counted)
    prober.posted.watches.add(pipe.end, pipe.readable)
    prober.posted.post_future(lambda: os.close(pipe.end)).result(PATIENCE_S)
    probed.region_read(BUFFER, Reg.BUSY, 4)
    ended(prober)
    polls.clear()
    time.sleep(ASLEEP_S)
    assert len(polls) < 5
    assert "has ended: the descriptor was closed" in caplog.text


def test_server_calls_nobody_for_a_number_that_is_another_file(
    probed: RawClient, prober: Prober, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    prober.posted.watches.add(pipe.end, pipe.readable)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"for another")

        def exchange() -> None:
            os.dup2(ours.fileno(), pipe.end)

        prober.posted.post_future(exchange).result(PATIENCE_S)
        probed.region_read(BUFFER, Reg.BUSY, 4)
        ended(prober)
    assert not pipe.read
    assert "has ended: the descriptor was closed" in caplog.text


def test_servers_own_descriptors_are_not_watched(
    watches: Watches, pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as an eventfd, which looks like the one that had its number."""
    watches.add(pipe.end, pipe.readable)
    watches.check((pipe.end,))
    assert not watches.table
    assert "has ended" in caplog.text


def test_paused_device_does_not_spin(
    probed: RawClient, prober: Prober, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: list[int] = []
    once = waiter.Waiter.once

    def counted(waiting: waiter.Waiter, events: int, *deadlines: float | None) -> tuple[bool, bool]:
        polls.append(1)
        return once(waiting, events, *deadlines)

    monkeypatch.setattr(waiter.Waiter, "once", counted)
    prober.posted.watches.add(pipe.end, pipe.readable)
    prober.posted.post_future(prober.timers.hold).result(PATIENCE_S)
    pipe.write(b"a")
    probed.region_read(BUFFER, Reg.BUSY, 4)
    time.sleep(ASLEEP_S)
    polls.clear()
    time.sleep(ASLEEP_S)
    assert len(polls) < 5
    assert not pipe.read
    prober.timers.release()
    probed.region_read(BUFFER, Reg.BUSY, 4)
    assert pipe.event.wait(PATIENCE_S)
