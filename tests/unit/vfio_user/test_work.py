# SPDX-License-Identifier: Apache-2.0
"""Posted work: in order, bounded, by the serving thread, whatever it waits for; it starves none."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from dma_rehearsal.device.vfio_user.errors import TooMuchPosted
from dma_rehearsal.device.vfio_user.messages import Command, RegionAccess
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.turn import Turn
from dma_rehearsal.device.vfio_user.work import MAX_POSTED, TURN_ACTIONS, TURN_S, Work
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.endpoint import BUFFER, GO, Prober, Reg
from tests.unit.vfio_user.serving import serving

PATIENCE_S = 10
ASLEEP_S = 0.05  # by then a server that has nothing to do sleeps; if not, the test shows less
FAR = 0x10_0000  # the client alone reaches it

# The queue.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Work:
    return Work(Timers(), clock=clock)


def test_in_the_order_of_posting_with_one_wake(queue: Work) -> None:
    wakes, ran = list[int](), list[int]()
    queue.wake = lambda: wakes.append(1)
    for number in range(3):
        queue.post(lambda number=number: ran.append(number))  # type: ignore[misc]
    assert (wakes, ran, queue.ready) == ([1], [], True)
    queue.run(Turn())
    assert (ran, queue.ready) == ([0, 1, 2], False)
    queue.post(lambda: None)
    assert wakes == [1, 1]


def test_one_turn_has_its_actions(queue: Work) -> None:
    for _ in range(TURN_ACTIONS + 1):
        queue.post(lambda: None)
    queue.run(Turn())
    assert queue.waiting == 1
    queue.run(Turn())
    assert queue.waiting == 0


def test_one_turn_has_its_time(queue: Work, clock: Clock) -> None:
    def slow() -> None:
        clock.now += TURN_S / 2

    for _ in range(3):
        queue.post(slow)
    queue.run(Turn())
    assert queue.waiting == 1


def test_an_action_that_posts_itself_ends_with_its_turn(queue: Work) -> None:
    def again() -> None:
        queue.post(again)

    again()
    queue.run(Turn())
    assert queue.waiting == 1


def test_too_much(queue: Work) -> None:
    for _ in range(MAX_POSTED):
        queue.post(lambda: None)
    with pytest.raises(TooMuchPosted, match=r"65536 posted actions wait .* post once for many"):
        queue.post(lambda: None)
    with pytest.raises(TooMuchPosted):
        queue.post_future(lambda: None)
    queue.run(Turn())
    queue.post(lambda: None)


def test_what_fails_leaves_the_others(queue: Work, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def fail() -> None:
        raise LookupError("a bug in an endpoint")

    queue.post(fail)
    queue.post(lambda: ran.append("other"))
    queue.run(Turn())
    assert ran == ["other"]
    assert "a bug in an endpoint" in caplog.text


def test_future_has_the_result_or_the_exception(
    queue: Work, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise LookupError("told to the one who asked")

    good, bad = queue.post_future(lambda: 5), queue.post_future(fail)
    assert not good.done()
    queue.run(Turn())
    assert good.result(0) == 5
    with pytest.raises(LookupError):
        bad.result(0)
    assert not caplog.records


def test_future_that_its_owner_cancelled_runs_nothing(queue: Work) -> None:
    ran: list[int] = []
    future = queue.post_future(lambda: ran.append(1))
    assert future.cancel()
    queue.run(Turn())
    assert not ran


def test_exit_in_a_function_reaches_both(queue: Work) -> None:
    def leave() -> None:
        raise SystemExit(1)

    future = queue.post_future(leave)
    with pytest.raises(SystemExit):
        queue.run(Turn())
    assert isinstance(future.exception(0), SystemExit)


def test_forgotten(queue: Work) -> None:
    ran: list[int] = []
    queue.post(lambda: ran.append(1))
    future = queue.post_future(lambda: ran.append(2))
    queue.forget()
    queue.post(lambda: ran.append(3))
    queue.run(Turn())
    assert ran == [3]
    with pytest.raises(CancelledError):
        future.result(0)


@pytest.mark.parametrize("pause", [Timers.hold, lambda timers: setattr(timers, "deferred", True)])
def test_it_waits_as_timers_do(pause: Callable[[Timers], None]) -> None:
    timers, ran = Timers(), list[int]()
    queue = Work(timers)
    pause(timers)
    queue.post(lambda: ran.append(1))
    assert not queue.ready
    queue.run(Turn())
    assert not ran
    timers.release()
    timers.deferred = False
    assert queue.ready


def test_an_action_that_pauses_the_device_is_the_last(queue: Work) -> None:
    queue.post(queue._timers.hold)
    queue.post(lambda: None)
    queue.run(Turn())
    assert queue.waiting == 1


def test_each_action_is_a_turn_of_its_own_with_its_name(queue: Work) -> None:
    turn, names = Turn(), list[str]()
    ids: list[object] = []

    def first() -> None:
        note()

    def note() -> None:
        assert turn.work is not None
        names.append(turn.work.name)  # type: ignore[union-attr]
        ids.append(turn.work)

    queue.post(first)
    queue.post_future(note)
    queue.run(turn)
    assert [each.rpartition(".")[2] for each in names] == ["first", "note"]
    assert all(each.startswith("posted work, test_each_action") for each in names)
    assert ids[0] is not ids[1]
    assert turn.work is None


# The server.


@pytest.fixture
def served(tmp_path: Path, prober: Prober) -> Iterator[Path]:
    with serving(tmp_path / "socket", prober) as path:
        yield path


BY = pytest.mark.parametrize("by", ["post", "timer"])


def ran_by(prober: Prober, by: str) -> int:
    """Return the thread that runs an action of this one, once it has."""
    time.sleep(ASLEEP_S)
    ran: Future[int] = Future()

    def action() -> None:
        ran.set_result(threading.get_ident())

    if by == "post":
        prober.posted.post(action)
    else:
        prober.timers.after(0, action)
    return ran.result(PATIENCE_S)


@BY
def test_without_a_client(served: Path, prober: Prober, by: str) -> None:
    del served
    assert ran_by(prober, by) != threading.get_ident()


@BY
def test_with_a_client_that_is_idle(probed: RawClient, prober: Prober, by: str) -> None:
    probed.region_read(0, 4, 4)
    assert ran_by(prober, by) != threading.get_ident()


@BY
def test_while_a_timer_is_set(probed: RawClient, prober: Prober, by: str) -> None:
    probed.region_read(0, 4, 4)
    prober.timers.after(3600, lambda: None)
    assert ran_by(prober, by) != threading.get_ident()


@BY
def test_while_the_client_owes_an_answer(probed: RawClient, prober: Prober, by: str) -> None:
    probed.dma_map(FAR, 0x1000, None)
    prober.address = FAR
    probed.write32(BUFFER, GO, 16)
    header, access, _ = probed.receive_command(Command.DMA_READ)
    assert ran_by(prober, by) != threading.get_ident()
    assert prober.outcome is None
    probed.answer(header, access.pack() + bytes(16))


@BY
def test_while_the_client_takes_no_replies(probed: RawClient, prober: Prober, by: str) -> None:
    probed.socket.setblocking(False)
    try:
        while True:
            probed.send(Command.REGION_READ, RegionAccess(0, 7, 4).pack())
    except BlockingIOError:
        pass
    assert ran_by(prober, by) != threading.get_ident()


def test_before_the_server_and_after_it(tmp_path: Path, prober: Prober) -> None:
    early = prober.posted.post_future(threading.get_ident)
    with serving(tmp_path / "socket", prober):
        assert early.result(PATIENCE_S) != threading.get_ident()
    prober.posted.post(lambda: None)
    assert prober.posted.waiting == 1


@pytest.mark.parametrize("by", ["timer", "post"])
def test_dma_by_message_leaves_at_once(probed: RawClient, prober: Prober, by: str) -> None:
    """A server that sleeps without a deadline has to send what it is asked to, and not sleep on."""
    probed.dma_map(FAR, 0x1000, None)
    probed.region_write(7, 4, b"\6\0")
    prober.address = FAR
    time.sleep(ASLEEP_S)

    def go() -> None:
        prober.write_go(16)

    if by == "timer":
        prober.timers.after(0, go)
    else:
        prober.posted.post(go)
    probed.socket.settimeout(2)
    header, access, _ = probed.receive_command(Command.DMA_READ)
    probed.answer(header, access.pack() + bytes(16))
    probed.socket.settimeout(PATIENCE_S)
    while probed.read32(BUFFER, Reg.BUSY):
        pass
    assert prober.outcome == bytes(16)


def flood(prober: Prober, stop: threading.Event) -> threading.Thread:
    """Have a thread post as fast as it can."""

    def work() -> None:
        while not stop.is_set():
            try:
                prober.posted.post(lambda: None)
            except TooMuchPosted:
                time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_flood_does_not_starve_the_client(probed: RawClient, prober: Prober) -> None:
    """Between two of its messages run what a turn or two may, however much waits."""
    stop = threading.Event()
    thread = flood(prober, stop)
    try:
        while prober.posted.waiting < TURN_ACTIONS:
            pass
        for _ in range(200):
            probed.region_read(BUFFER, Reg.BUSY, 4)
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def test_one_that_posts_itself_leaves_the_client_its_turns(
    probed: RawClient, prober: Prober
) -> None:
    """And the other way round: it runs between the messages of a client that never pauses."""
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        prober.posted.post(again)

    prober.posted.post(again)
    first = len(ran)
    for _ in range(100):
        probed.region_read(BUFFER, Reg.BUSY, 4)
    assert len(ran) > first
    prober.posted.post_future(prober.device_reset)


def test_client_that_never_pauses_leaves_posted_work_its_turn(
    probed: RawClient, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages are there before each is answered, so the server never sleeps."""
    ran, seen = list[int](), list[int]()
    real = prober.region_read

    def read(index: int, offset: int, length: int) -> bytes:
        seen.append(len(ran))
        prober.posted.post(lambda: ran.append(1))
        return real(index, offset, length)

    monkeypatch.setattr(prober, "region_read", read)
    request = RegionAccess(0, 7, 4).pack()
    for _ in range(100):
        probed.send(Command.REGION_READ, request)
    for _ in range(100):
        probed.receive()
    assert seen == list(range(100)), "each ran before the next message"


def test_asyncio(probed: RawClient, prober: Prober) -> None:
    """A coroutine of another thread's loop awaits what the device's thread returns."""
    del probed

    async def main() -> list[int]:
        both = [asyncio.wrap_future(prober.posted.post_future(os.getpid)) for _ in range(2)]
        return await asyncio.gather(*both)

    assert asyncio.run(main()) == [os.getpid()] * 2
