# SPDX-License-Identifier: Apache-2.0
"""Mistakes of an author that only a call can show: each error says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
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
    MemoryBar,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.testing import BASE, FakeHost

Reg = IntEnum("Reg", {"KICK": 0})


class Device(Endpoint):
    """``act`` is what a write of KICK does."""

    identity = Identity(0x1234, 0xE0, 0xFF0000)
    vectors = 2
    bars: ClassVar[Bars] = {0: RegisterBar((Register(Reg.KICK, Access.WO),)), 2: MemoryBar(0x1000)}

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], object] = bool

    def write_kick(self, _value: int) -> None:
        """Do it."""
        self.act()

    async def copy(self) -> None:
        """Wait for nothing."""


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def host(device: Device) -> Iterator[FakeHost]:
    with FakeHost(device) as host:
        yield host


WRONG_CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a timer of nothing": (
        lambda device: device.timers.after(1, None),
        r"after\(seconds, action\) got None, which is not a function; give .*, without parentheses",
    ),
    "a timer the other way round": (
        lambda device: device.timers.after(lambda: None, 1),
        r"after\(seconds, action\) got 1, which is not a function",
    ),
    "a timer of a coroutine": (
        lambda device: device.timers.after(1, device.copy),
        r"got the coroutine function Device.copy, which nothing .*: lambda: self.start\(...\)",
    ),
    "nothing posted": (lambda device: device.post(None), r"post\(action\) got None"),
    "a coroutine posted": (lambda device: device.post(device.copy), r"post\(action\) got the co"),
    "a future of nothing": (
        lambda device: device.post_future(None),
        r"post_future\(function\) got",
    ),
    "a watch that calls nothing": (
        lambda device: device.watch(0, readable=5),
        r"watch\(readable=...\) got 5",
    ),
    "a watch of a path": (
        lambda device: device.watch("/dev/null", print),
        r"watch\('/dev/null'\): give a descriptor, or an object with fileno\(\)",
    ),
    "a start without a call": (
        lambda device: device.start(device.copy),
        r"start\(<bound method Device.copy.*: not a coroutine; call the async method: self.start",
    ),
    "a thread of a result": (
        lambda device: device.thread(None),
        r"thread\(None\): not a function; give the function itself",
    ),
    "an address that is not one": (
        lambda device: device.bus.read(None, 4),
        r"a DMA at the address None; a bus address is an int",
    ),
    "a length that is not one": (
        lambda device: device.bus.read(BASE, 4.0),
        r"a DMA that reads 4.0 bytes; a length is an int",
    ),
    "a number written": (
        lambda device: device.bus.write(BASE, 4),
        r"a DMA that writes 4; give bytes: value.to_bytes\(4, 'little'\)",
    ),
    "words written": (lambda device: device.bus.write(BASE, "abc"), r"a DMA that writes 'abc'"),
    "a list that is one pair": (
        lambda device: device.bus.read_list((BASE, 4)),
        r"a segment 1048576; a list of segments has pairs: \[\(address, length\), ...\]",
    ),
    "a line without a number": (
        lambda device: device.interrupts.line(None),
        r"line\(None\): a line has a number, an int",
    ),
    "a coroutine's address": (
        lambda device: device.bus.read_async(None, 4, print),
        r"a DMA at the address None; a bus address is an int",
    ),
    "a coroutine's data": (
        lambda device: device.bus.write_async(BASE, "abc", print),
        r"a DMA that writes 'abc'; give bytes",
    ),
}


@pytest.mark.parametrize(("act", "words"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_call(
    device: Device, host: FakeHost, act: Callable[[Any], object], words: str
) -> None:
    device.act = lambda: act(device)
    with pytest.raises(TypeError, match=words):
        host.write(0, Reg.KICK, 1)
    assert device.bus.read(BASE, 4) == bytes(4), "the device goes on"


def test_right_calls(device: Device, host: FakeHost) -> None:
    class Address(IntEnum):
        HERE = BASE

    got: list[object] = []
    end, other = os.pipe()
    watch = device.watch(end, lambda: got.append(os.read(end, 9)))
    os.write(other, b"seen")
    device.timers.after(0, lambda: got.append("timer"))
    device.post(lambda: got.append("posted"))
    device.start(device.copy())
    device.bus.write(Address.HERE, bytearray(b"data"))  # type: ignore[arg-type]
    device.bus.write_async(Address.HERE, memoryview(b"more"), got.append)  # type: ignore[arg-type]
    host.run()
    assert set(map(str, got)) == {"posted", "timer", "b'seen'", "b''"}
    watch.close()
    os.close(end)
    os.close(other)


@pytest.mark.parametrize("memory", [0x1000, 32 << 20])
def test_memory_of_a_bar_keeps_its_size(memory: int) -> None:
    class Holder(Device):
        bars: ClassVar[Bars] = {2: MemoryBar(memory)}
        write_kick: Any = None

    data = Holder().memory(2)
    for wrong in (b"", b"01234567"):
        with pytest.raises((BufferError, IndexError)):
            data[memory - 4 : memory] = wrong
    data[memory - 4 : memory] = b"last"
    assert (len(data), data[memory - 4 : memory]) == (memory, b"last")


def test_message_that_the_function_does_not_have_is_told_once(
    device: Device, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert device.msix(1)
    assert not caplog.messages
    assert not device.msix(2)
    assert not device.msix(-1)
    assert caplog.messages == [
        "msi-x message 2 is never sent: the function has 2; look at the number, or declare more "
        "vectors"
    ]
    device.msi(0)
    assert "msi message 0 is never sent: the function has 0" in caplog.messages[1]
    assert host.interrupts == [("MSIX", 1)]


@pytest.mark.parametrize(
    "act",
    [
        lambda device: device.bus.read(BASE, 4),
        lambda device: device.bus.write_async(BASE, b"oops", print),
        lambda device: device.bus.fetch_add(BASE, 1),
        lambda device: device.msix(0),
    ],
)
def test_a_thread_does_not_reach_the_device(
    device: Device, host: FakeHost, act: Callable[[Device], object]
) -> None:
    done = threading.Event()
    said: list[str] = []

    def work(_ending: threading.Event) -> None:
        try:
            act(device)
        except RuntimeError as error:
            said.append(str(error))
        finally:
            done.set()

    device.thread(work)
    host.wait(done.is_set)
    assert re.search(r"in the thread test_a_thread.*: only .*; hand it over: self.post", said[0])
    assert host.memory[:4] == bytes(4)
    assert not host.interrupts


def test_a_thread_hands_over(device: Device, host: FakeHost) -> None:
    done = threading.Event()

    def work(_ending: threading.Event) -> None:
        device.post_future(lambda: device.bus.write(BASE, b"done")).result()
        done.set()

    device.thread(work)
    host.wait(done.is_set)
    host.run()
    assert host.memory[:4] == b"done"


def test_a_refusal_is_not_a_mistake(device: Device, host: FakeHost) -> None:
    del host
    with pytest.raises(DmaRefused):
        device.bus.read(-1, 4)


@pytest.mark.parametrize(
    ("what", "act"),
    [
        ("a DMA", lambda device: device.bus.writing(BASE, b"lost")),
        ("a DMA", lambda device: device.bus.reading_list([])),
        ("a sleep", lambda device: device.sleep(1)),
        ("a future", lambda device: device.future(Future())),
    ],
)
def test_what_is_not_awaited(
    device: Device, host: FakeHost, what: str, act: Callable[[Device], object]
) -> None:
    def forgets() -> None:
        act(device)

    device.act = forgets
    words = rf"{what} was not awaited, .* \(test_author_mistakes.py:\d+\): write await before it"
    with pytest.raises(RuntimeError, match=words):
        host.write(0, Reg.KICK, 1)


def test_what_is_awaited(device: Device, host: FakeHost) -> None:
    async def awaits() -> None:
        await device.bus.writing(BASE, b"kept")
        await device.sleep(0)
        future: Future[None] = Future()
        future.set_result(None)
        await device.future(future)
        await device.sleep(100)

    device.act = lambda: device.start(awaits())
    host.write(0, Reg.KICK, 1)
    host.run()
    host.reset()  # which ends it where it waits
    assert host.memory[:4] == b"kept"


class Lines(Device):
    """The first line follows what software writes."""

    def write_kick(self, value: int) -> None:
        """Move the line."""
        self.interrupts.line(0).level = bool(value)


class Pin(Lines):
    identity = Identity(0x1234, 0xE1, 0xFF0000, interrupt_pin=1)


def test_intx_that_the_function_does_not_have_is_told_once(
    device: Device, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    device.intx(False)
    assert not caplog.messages
    for level in (True, False, True):
        device.intx(level)
    assert caplog.messages == [
        "the INTx line is up, and is never signalled: the function has no INTx; declare "
        "interrupt_pin=1 in its identity, or send a message"
    ]
    assert not host.interrupts


def test_a_line_without_a_way_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    device = Lines()
    with FakeHost(device, start=False) as host:
        device.interrupts.line(0).level = True
        assert not caplog.messages, "no driver is at work"
        device.interrupts.line(0).level = False
        host.write(7, 4, 6, 2)  # bus mastering and memory, and no MSI-X
        for level in (1, 0, 1):
            host.write(0, Reg.KICK, level)
        assert [message.partition(";")[0] for message in caplog.messages] == [
            "line(0) is up, and no interrupt tells of it: software has enabled neither MSI-X nor "
            "MSI, and the function has no INTx"
        ]
        host.start()
        assert host.interrupts == [("MSIX", 0)], "its way has begun"


@pytest.mark.parametrize(("kind", "by"), [(Lines, "MSIX"), (Pin, "INTX")])
def test_a_line_that_has_a_way_is_not_told_of(
    kind: type[Lines], by: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeHost(kind(), interrupts_by=by) as host:
        host.write(0, Reg.KICK, 1)
        assert host.interrupts == [(by, 0)]
    assert not caplog.messages


@pytest.mark.parametrize("wait", ["result", "exception"])
def test_the_serving_thread_does_not_wait_for_itself(
    device: Device, host: FakeHost, wait: str
) -> None:
    future = device.post_future(lambda: 5)
    device.act = lambda: getattr(future, wait)()
    words = r"waits for posted work that only it can do; .* await self.future\(...\)"
    with pytest.raises(RuntimeError, match=words):
        host.write(0, Reg.KICK, 1)
    with pytest.raises(TimeoutError):
        future.result(0)
    host.run()
    device.act = lambda: device.memory(2).__setitem__(0, future.result())
    host.write(0, Reg.KICK, 1)
    assert host.read(2, 0) == 5


@pytest.mark.parametrize("seconds", [0, 1])
def test_asyncios_sleep_is_named(device: Device, host: FakeHost, seconds: float) -> None:
    async def sleeps() -> None:
        await asyncio.sleep(seconds)

    device.act = lambda: device.start(sleeps())
    words = r"await .*self\.sleep.* asyncio\.sleep.*self\.future.*\(self\.thread\)"
    with pytest.raises((RuntimeError, TypeError), match=words):
        host.write(0, Reg.KICK, 1)


def test_an_error_of_the_models_own_is_not_taken_for_asyncios(
    device: Device, host: FakeHost
) -> None:
    async def fails() -> None:
        raise RuntimeError("no running pump")

    device.act = lambda: device.start(fails())
    with pytest.raises(RuntimeError, match=r"^no running pump$"):
        host.write(0, Reg.KICK, 1)
