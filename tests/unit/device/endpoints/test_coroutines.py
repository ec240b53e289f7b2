# SPDX-License-Identifier: Apache-2.0
"""Coroutines in the serving thread: what they await, who resumes them, how a reset ends them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.endpoints.coroutines import MAX_RUNNING, Running, TooManyRunning
from dma_rehearsal.device.testing import FakeHost
from dma_rehearsal.device.vfio_user import timers
from dma_rehearsal.device.vfio_user.errors import TooManyTimers

Reg = IntEnum("Reg", {"GO": 0, "BUSY": 4})


class Walker(Endpoint):
    """Runs what a test gives it when software writes GO."""

    identity = Identity(vendor_id=0x1234, device_id=5, class_code=0xFF0000)
    bars: ClassVar[Bars] = {0: RegisterBar((Register(Reg.GO, Access.WO), Register(Reg.BUSY)))}
    vectors = 1

    def __init__(self) -> None:
        super().__init__()
        self.job: Callable[[], Coroutine[Any, Any, None]] = self.nothing
        self.running: Running | None = None
        self.seen: list[object] = []

    async def nothing(self) -> None:
        """Do nothing."""

    def write_go(self, _value: int) -> None:
        """Start the job."""
        self.running = self.start(self._whole())

    async def _whole(self) -> None:
        self.registers(0)[Reg.BUSY] = 1
        try:
            await self.job()
        finally:
            self.registers(0)[Reg.BUSY] = 0


@pytest.fixture
def device() -> Walker:
    return Walker()


@pytest.fixture
def host(device: Walker) -> Iterator[FakeHost]:
    with FakeHost(device) as made:
        yield made


def test_mapped_memory_is_done_before_the_access_is_answered(
    device: Walker, host: FakeHost
) -> None:
    async def job() -> None:
        data = await device.bus.reading(host.base, 4)
        await device.bus.writing(host.base + 8, data[::-1])
        parts = await device.bus.reading_list([(host.base, 2), (host.base + 8, 2)])
        await device.bus.writing_list([(host.base + 16, parts[0]), (host.base + 18, parts[1])])
        device.msix(0)

    device.job = job
    host.memory[:4] = b"abcd"
    host.write(0, Reg.GO, 1)
    assert (host.memory[8:12], host.memory[16:20]) == (b"dcba", b"abdc")
    assert host.interrupts == [("MSIX", 0)]
    assert host.read(0, Reg.BUSY) == 0
    assert device.running is not None
    assert device.running.done


def test_memory_by_messages_is_done_later(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        data = await device.bus.reading(host.message_base, 4)
        await device.bus.writing(host.message_base + 4, data, by_message=True)

    device.job = job
    host.message_memory[:4] = b"abcd"
    host.write(0, Reg.GO, 1)
    assert (host.read(0, Reg.BUSY), host.unanswered) == (1, 1)
    host.run()
    assert host.read(0, Reg.BUSY) == 0
    assert host.message_memory[4:8] == b"abcd"


def test_refusal_is_raised_where_it_is_awaited(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        try:
            await device.bus.reading(0, 4)
        except DmaRefused as refusal:
            device.seen.append(refusal.reason.name)
        await device.bus.writing(0, b"?")
        device.seen.append("not reached")

    device.job = job
    host.write(0, Reg.GO, 1)
    assert device.seen == ["UNMAPPED"]
    assert host.read(0, Reg.BUSY) == 0


def test_sleep(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        for number in range(3):
            await device.sleep(1)
            device.seen.append(number)

    device.job = job
    host.write(0, Reg.GO, 1)
    host.run()
    assert device.seen == []
    host.advance(2.5)
    assert device.seen == [0, 1]
    host.advance(0.5)
    assert device.seen == [0, 1, 2]


@pytest.mark.parametrize("early", [True, False])
def test_future(device: Walker, host: FakeHost, early: bool) -> None:
    future: Future[int] = Future()

    async def job() -> None:
        found = await device.future(future)
        device.seen.append(found)

    device.job = job
    if early:
        future.set_result(5)
    host.write(0, Reg.GO, 1)
    if not early:
        thread = threading.Thread(target=future.set_result, args=(5,))
        thread.start()
        thread.join()
    assert device.seen == [], "not on the stack of the one that sets it"
    host.run()
    assert device.seen == [5]


def test_a_future_that_is_awaited_after_each_reset_keeps_one_callback(
    device: Walker, host: FakeHost
) -> None:
    class Counted(Future[int]):
        callbacks = 0

        def add_done_callback(self, fn: Callable[[Future[int]], object]) -> None:
            self.callbacks += 1
            super().add_done_callback(fn)

    future = Counted()

    async def job() -> None:
        found = await device.future(future)
        device.seen.append(found)

    device.job = job
    for _ in range(50):
        host.write(0, Reg.GO, 1)
        host.reset()
        host.start()
    assert future.callbacks == 1
    host.write(0, Reg.GO, 1)
    device.start(job())
    future.set_result(5)
    assert not device.seen
    host.run()
    assert device.seen == [5, 5], "each wait that goes on, and none that a reset ended"


def test_a_device_does_not_keep_a_future(device: Walker, host: FakeHost) -> None:
    future: Future[int] = Future()
    gone = weakref.ref(future)

    async def job(awaited: Future[int]) -> None:
        found = await device.future(awaited)
        device.seen.append(found)

    device.start(job(future))
    host.reset()
    del future
    gc.collect()
    assert gone() is None


def test_exception_of_a_future(device: Walker, host: FakeHost) -> None:
    future: Future[int] = Future()
    future.set_exception(LookupError("of the thread"))

    async def job() -> None:
        await device.future(future)

    device.job = job
    host.write(0, Reg.GO, 1)
    with pytest.raises(LookupError, match="of the thread"):
        host.run()


def test_endless_coroutine_neither_recurses_nor_holds_the_access(
    device: Walker, host: FakeHost
) -> None:
    async def job() -> None:
        done: Future[int] = Future()
        done.set_result(1)
        while True:
            await device.future(done)
            await device.sleep(0)
            device.seen.append(1)
            if len(device.seen) == 3000:
                return

    device.job = job
    host.write(0, Reg.GO, 1)
    assert host.read(0, Reg.BUSY) == 1
    host.run()
    assert len(device.seen) == 3000


# A reset, and other ends.


def ends(device: Walker, host: FakeHost, inside: Callable[[], object]) -> Callable[[], None]:
    """Have GO start a coroutine that sleeps, and does ``inside`` at its end; return that start."""

    async def job() -> None:
        try:
            await device.sleep(1000)
        finally:
            device.seen.append("finally")
            inside()
            device.seen.append("after")

    device.job = job
    return lambda: host.write(0, Reg.GO, 1)


def test_reset_runs_finally_blocks(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: None)()
    host.reset()
    assert device.seen == ["finally", "after"]
    assert device.running is not None
    assert device.running.done
    assert device.timers.next_deadline() is None


def test_no_dma_leaves_a_finally_block_at_reset(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: device.bus.write(host.base, b"!"))()
    host.reset()
    assert device.seen == ["finally"]
    assert host.memory[:1] == b"\0"
    assert not [*device.bus.transactions], "nor is it a refusal of the test's"


def test_no_started_dma_leaves_it_either(device: Walker, host: FakeHost) -> None:
    def inside() -> None:
        device.bus.write_async(host.base, b"!", device.seen.append)

    ends(device, host, inside)()
    host.reset()
    host.run()
    assert device.seen == ["finally", "after"]
    assert host.memory[:1] == b"\0"


def test_no_interrupt_timer_or_post_leaves_it_either(device: Walker, host: FakeHost) -> None:
    def inside() -> None:
        device.seen.append(device.msix(0))
        device.timers.after(0, lambda: device.seen.append("timer"))
        device.post(lambda: device.seen.append("post"))

    ends(device, host, inside)()
    host.reset()
    host.run()
    assert device.seen == ["finally", False, "after"]
    assert not host.interrupts


def test_none_is_started_by_one_that_a_reset_ends(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: device.start(device.nothing()))()
    with pytest.raises(RuntimeError, match="by one that a reset ends"):
        host.reset()


def test_the_device_works_after_it(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: device.bus.write(host.base, b"!"))()
    host.reset()
    host.write(7, 4, 6, 2)

    async def job() -> None:
        await device.bus.writing(host.base, b"new")

    device.job = job
    host.write(0, Reg.GO, 1)
    assert host.memory[:3] == b"new"


def test_reset_while_a_message_is_under_way(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        await device.bus.reading(host.message_base, 4)
        device.seen.append("not reached")

    device.job = job
    host.write(0, Reg.GO, 1)
    host.reset()
    host.run()
    assert device.seen == []


def ending(device: Walker, host: FakeHost, kind: str) -> Callable[[], Coroutine[Any, Any, None]]:
    bus, far = device.bus, host.message_base

    async def job() -> None:
        if kind == "writing":
            await bus.writing(far, b"late" * 0x8000)
        elif kind == "writing_list":
            await bus.writing_list([(far, b"late"), (host.base, b"late")])
        elif kind == "reading":
            await bus.reading(far, 0x20000)
        else:
            await bus.reading_list([(far, 4), (far + 8, 4)])
        device.seen.append("the rest")

    return job


@pytest.mark.parametrize("kind", ["writing", "writing_list", "reading", "reading_list"])
def test_cancel_drops_the_dma_that_is_awaited(device: Walker, host: FakeHost, kind: str) -> None:
    """One message was sent; neighbours go on behind it, in their order."""
    bus, far = device.bus, host.message_base
    device.job = ending(device, host, kind)
    host.write(0, Reg.GO, 1)
    bus.write_async(host.base + 64, b"near", lambda _: device.seen.append("near"))
    bus.write_async(far + 0x40000, b"far!", lambda _: device.seen.append("far"))
    assert device.running is not None
    device.running.cancel()
    assert device.running.done
    assert (host.unanswered, device.seen) == (1, [])
    host.run()
    assert device.seen == ["near", "far"]
    assert host.memory[:4] == bytes(4)
    assert host.memory[64:68] + host.message_memory[0x40000:0x40004] == b"nearfar!"
    sent = {"writing": 0x10000, "writing_list": 4}.get(kind, 0)
    assert host.message_memory[:0x20000].rstrip(b"\0") == b"late" * (sent // 4)
    assert device.bus.queue.idle


def test_cancel_drops_a_dma_that_waits_behind_another(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        await device.bus.writing(host.message_base, b"late")

    device.job = job
    device.bus.write_async(host.message_base + 8, b"far!", device.seen.append)
    host.write(0, Reg.GO, 1)
    assert device.running is not None
    device.running.cancel()
    host.run()
    assert host.message_memory[:16] == bytes(8) + b"far!" + bytes(4)
    assert device.seen == [b""]


def test_drained_comes_behind_the_message_of_what_was_cancelled(
    device: Walker, host: FakeHost
) -> None:
    async def write() -> None:
        await device.bus.writing(host.message_base, b"late")

    async def drain() -> None:
        await device.bus.drained()
        device.seen.append(bytes(host.message_memory[:4]))

    device.job = write
    host.write(0, Reg.GO, 1)
    assert device.running is not None
    device.running.cancel()
    device.job = drain
    host.write(0, Reg.GO, 1)
    assert device.seen == []
    host.run()
    assert device.seen == [b"late"]


def test_one_that_is_cancelled_may_still_do_dma(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: device.bus.write(host.base, b"!"))()
    assert device.running is not None
    device.running.cancel()
    device.running.cancel()
    assert (device.seen, host.memory[:1]) == (["finally", "after"], b"!")
    assert device.timers.next_deadline() is None


def test_reset_by_the_coroutine_itself(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        device.device_reset()
        device.seen.append("goes on")
        try:
            await device.sleep(0)
            device.seen.append("not reached")
        finally:
            device.seen.append("finally")

    device.job = job
    host.write(0, Reg.GO, 1)
    assert device.seen == ["goes on", "finally"]
    host.run()
    assert device.seen == ["goes on", "finally"]
    assert device.running is not None
    assert device.running.done


def test_migration_that_stops_the_device_ends_them(device: Walker, host: FakeHost) -> None:
    ends(device, host, lambda: None)()
    device._stop_state.stop()
    assert device.seen == ["finally", "after"]
    device._stop_state.run()
    assert not device.config.stopped


# HOLD.


@pytest.fixture(params=["awaited", "at once"])
def writes(device: Walker, host: FakeHost, request: pytest.FixtureRequest) -> Walker:
    """Hold actions; the job writes to memory in either way."""

    async def job() -> None:
        try:
            if request.param == "awaited":
                await device.bus.writing(host.base, b"!")
            else:
                device.bus.write(host.base, b"!")
            device.seen.append("written")
            await device.bus.writing(host.base + 1, b"!")
        finally:
            device.seen.append("finally")

    device.job = job
    device.bus.interconnect.holds.set(True)
    return device


def test_hold_holds_its_first_dma(writes: Walker, host: FakeHost) -> None:
    host.write(0, Reg.GO, 1)
    host.run()
    assert host.read(0, Reg.BUSY) == 1
    assert (host.memory[:2], writes.seen) == (b"\0\0", [])
    writes.bus.interconnect.holds.release()
    host.run()
    assert (host.memory[:2], writes.seen) == (b"!!", ["written", "finally"])


def test_cancel_ends_the_wait_of_one_that_is_held(device: Walker, host: FakeHost) -> None:
    """What waits is its DMA alone, so nothing waits any more."""

    async def job() -> None:
        await device.bus.writing(host.base, b"!")

    device.job = job
    board = device.bus.interconnect.holds
    board.set(True)
    host.write(0, Reg.GO, 1)
    assert device._hold.wait is not None
    assert device.running is not None
    device.running.cancel()
    assert device._hold.wait is None
    board.release()
    host.run()
    assert host.memory[:1] == b"\0"


def test_reset_ends_one_that_is_held(writes: Walker, host: FakeHost) -> None:
    host.write(0, Reg.GO, 1)
    host.reset()
    host.run()
    assert (host.memory[:2], writes.seen) == (b"\0\0", ["finally"])
    assert not writes._coroutines._running
    assert writes.bus.interconnect.holds.held == 0


# Mistakes of the author's.


def test_failure_is_the_models(device: Walker, host: FakeHost) -> None:
    async def job() -> None:
        await device.sleep(1)
        raise LookupError("a bug")

    device.job = job
    host.write(0, Reg.GO, 1)
    with pytest.raises(LookupError, match="a bug"):
        host.advance(1)


def test_too_many(device: Walker, host: FakeHost) -> None:
    del host
    sleeping = [device.start(asleep(device)) for _ in range(MAX_RUNNING)]
    with pytest.raises(TooManyRunning, match="4096 coroutines of the device run; count them"):
        device.start(asleep(device))
    sleeping[0].cancel()
    device.start(asleep(device))


async def asleep(device: Walker) -> None:
    await device.sleep(1000)


def test_cancelled_sleeps_are_not_kept(device: Walker, host: FakeHost) -> None:
    del host
    for _ in range(1000):
        device.start(asleep(device)).cancel()
    assert device.timers.kept < 200


def test_sleep_needs_no_room_among_the_timers(
    device: Walker, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coroutines have a bound of their own."""
    monkeypatch.setattr(timers, "MAX_TIMERS", 1)
    device.timers.after(9, lambda: None)
    with pytest.raises(TooManyTimers):
        device.timers.after(9, lambda: None)

    async def job() -> None:
        await device.sleep(1)
        device.seen.append("slept")

    device.job = job
    host.write(0, Reg.GO, 1)
    host.advance(1)
    assert device.seen == ["slept"]


def test_started_by_another_thread(device: Walker) -> None:
    device.posted.thread = threading.get_ident() + 1
    with pytest.raises(RuntimeError, match=r"post the start: self.post"):
        device.start(device.nothing())
    device.posted.thread = threading.get_ident()
    assert device.start(device.nothing()).done


def test_asyncios_future_is_named(device: Walker, host: FakeHost) -> None:
    loop = asyncio.new_event_loop()

    async def job() -> None:
        await loop.create_future()

    device.job = job
    try:
        with pytest.raises(TypeError, match=r"cannot be awaited here.* \(self\.thread\)"):
            host.write(0, Reg.GO, 1)
    finally:
        loop.close()
    assert device.running is None


def test_nothing_is_left_unawaited(
    device: Walker, host: FakeHost, recwarn: pytest.WarningsRecorder
) -> None:
    ends(device, host, lambda: None)()
    host.reset()
    test_started_by_another_thread(device)
    gc.collect()
    assert not recwarn.list
