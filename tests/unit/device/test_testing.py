# SPDX-License-Identifier: Apache-2.0
"""The host for authors' unit tests: what it shows is what a run shows."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    DmaRefused,
    Endpoint,
    Identity,
    IoBar,
    MultiFunction,
    PowerState,
    Register,
    RegisterBar,
)
from dma_rehearsal.device.endpoints.dma_queue import MAX_QUEUED
from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.testing import FakeHost

Reg = IntEnum("Reg", {"NEAR": 0, "FAR": 4, "SEEN": 8, "BUG": 12})
Port = IntEnum("Port", {"INDEX": 0})


class Reader(Endpoint):
    """NEAR and FAR start as many reads as is written to them; SEEN counts those that are done."""

    identity = Identity(vendor_id=0x1234, device_id=7, class_code=0xFF0000, interrupt_pin=1)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                Register(Reg.NEAR, Access.WO),
                Register(Reg.FAR, Access.WO),
                Register(Reg.SEEN),
                Register(Reg.BUG, Access.RW),
            )
        )
    }
    vectors = 2
    host: FakeHost

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[object] = []

    def _read(self, address: int, count: int) -> None:
        for number in range(count):
            self.bus.read_async(address, 4, lambda got, number=number: self._done(number, got))  # type: ignore[misc]
        self.steps.append("returned")

    def _done(self, number: int, got: bytes | DmaRefused) -> None:
        self.registers(0)[Reg.SEEN] += 1
        self.steps.append(number if isinstance(got, bytes) else got.reason.name)

    def write_near(self, count: int) -> None:
        """Read mapped memory."""
        self._read(self.host.base, count)

    def write_far(self, count: int) -> None:
        """Read memory by messages."""
        self._read(self.host.message_base, count)

    def write_bug(self, _value: int) -> None:
        """Fail."""
        raise LookupError("a bug")


@pytest.fixture
def host() -> Iterator[FakeHost]:
    device = Reader()
    with FakeHost(device) as made:
        device.host = made
        yield made


@pytest.fixture
def device(host: FakeHost) -> Reader:
    assert isinstance(host.device, Reader)
    return host.device


def test_ends_come_in_order_after_the_side_effect_and_before_the_answer(
    host: FakeHost, device: Reader
) -> None:
    host.write(0, Reg.NEAR, 3)
    assert device.steps == ["returned", 0, 1, 2]


def test_messages_wait_and_so_does_what_is_behind_them(host: FakeHost, device: Reader) -> None:
    host.write(0, Reg.FAR, 2)
    host.write(0, Reg.NEAR, 1)
    assert device.steps == ["returned"] * 2
    assert host.read(0, Reg.SEEN) == 0
    host.run()
    assert device.steps[2:] == [0, 1, 0]


def test_the_limit_is_the_queues(host: FakeHost, device: Reader) -> None:
    host.write(0, Reg.FAR, MAX_QUEUED + 1)
    host.run()
    assert device.steps.count(DmaReason.CLIENT_ERROR.name) == 1
    assert len(device.steps) == MAX_QUEUED + 2


def test_reset_forgets_what_is_under_way(host: FakeHost, device: Reader) -> None:
    host.write(0, Reg.FAR, 2)
    host.reset()
    host.run()
    assert device.steps == ["returned"]
    assert host.read(0, Reg.SEEN) == 0xFFFF_FFFF, "stopped"


def test_memory_that_messages_do_not_reach(host: FakeHost, device: Reader) -> None:
    device.bus.read_async(0, 4, device.steps.append, by_message=True)
    host.run()
    assert isinstance(device.steps[0], DmaRefused)


def test_bus_mastering_and_start() -> None:
    device = Reader()
    with FakeHost(device, start=False) as host:
        device.host = host
        host.write(7, 4, 2, 2)
        host.write(0, Reg.NEAR, 1)
        assert device.steps == ["returned", "BUS_MASTER_OFF"]
        assert not device.msix(0)
        assert not host.interrupts


def test_interrupts(host: FakeHost, device: Reader) -> None:
    device.msix(1)
    host.write(7, 4, 6, 2)
    assert host.interrupts == [("MSIX", 1)]


def test_failure_is_raised_by_the_call_that_meets_it(host: FakeHost, device: Reader) -> None:
    with pytest.raises(LookupError, match="a bug"):
        host.write(0, Reg.BUG, 1)
    host_reply = host.read(0, Reg.SEEN)
    assert host_reply == 0
    device.timers.after(1, lambda: device.write_bug(0))
    with pytest.raises(LookupError):
        host.advance(1)
    device.post(lambda: device.write_bug(0))
    with pytest.raises(LookupError):
        host.run()


def test_time_stands_still_until_it_is_moved(host: FakeHost, device: Reader) -> None:
    times: list[float] = []
    begin = host.now
    for seconds in (2, 1):
        device.timers.after(seconds, lambda: times.append(host.now - begin))
    host.run()
    assert not times
    host.advance(5)
    assert times == [1, 2]
    assert host.now == begin + 5


def test_posted_work_and_watches_run_in_run(host: FakeHost, device: Reader) -> None:
    end, other = os.pipe()
    watch = device.watch(end, lambda: device.steps.append(os.read(end, 100)))
    device.post(lambda: device.steps.append("posted"))
    os.write(other, b"bytes")
    assert device.steps == []
    host.run()
    assert device.steps == ["posted", b"bytes"]
    watch.close()
    os.close(end)
    os.close(other)


def test_what_does_not_come_to_an_end(host: FakeHost, device: Reader) -> None:
    def again() -> None:
        device.post(again)

    again()
    with pytest.raises(RuntimeError, match="a posted action posts itself"):
        host.run()


def test_failure_of_the_test_itself_is_not_hidden() -> None:
    device = Reader()
    device.on_detach = lambda: device.write_bug(0)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), FakeHost(device):
        raise ZeroDivisionError


class Ports(Reader):
    """It has every kind of interrupt, and a BAR in I/O space."""

    messages = 4
    bars: ClassVar[Bars] = {
        **Reader.bars,
        4: IoBar((Register(Port.INDEX, Access.RW),), size=16),
    }

    def on_power(self, state: PowerState) -> None:
        """Note it."""
        self.steps.append(state)


def test_io_space_answers() -> None:
    with FakeHost(Ports()) as host:
        host.write(4, 0, 5)
        assert host.read(4, 0) == 5


@pytest.mark.parametrize(
    ("way", "sent"),
    [(None, ("MSIX", 1)), ("MSIX", ("MSIX", 1)), ("MSI", ("MSI", 1)), ("INTX", ("INTX", 0))],
)
def test_a_line_goes_by_the_way_that_the_test_names(way: str | None, sent: tuple[str, int]) -> None:
    device = Ports()
    with FakeHost(device, interrupts_by=way) as host:
        device.interrupts.line(1).send()
        assert host.interrupts == [sent]
        host.reset()
        host.start()
        device.interrupts.line(1).send()
        assert host.interrupts[1] == sent


def test_all_messages_of_msi_are_allocated() -> None:
    device = Ports()
    with FakeHost(device, interrupts_by="MSI"):
        assert device.interrupts.msi.count == 4


def test_way_that_the_device_has_not() -> None:
    with pytest.raises(ValueError, match=r"'MSI': Reader has MSIX, INTX; declare .* messages"):
        FakeHost(Reader(), interrupts_by="MSI")


def test_power_states() -> None:
    device = Ports()
    with FakeHost(device) as host:
        host.power(PowerState.D3HOT)
        assert host.read(0, Reg.SEEN) == 0xFFFF_FFFF
        host.power(PowerState.D0)
        assert host.read(0, Reg.SEEN) == 0
    assert device.steps == [PowerState.D3HOT, PowerState.D0]


def test_memory_above_4_gib() -> None:
    device = Reader()
    with FakeHost(device, base=5 << 32) as host:
        host.memory[:4] = b"high"
        assert device.bus.read(host.base, 4) == b"high"
        device.bus.read_async(host.message_base, 4, device.steps.append)
        host.run()
    assert device.steps == [bytes(4)]


def test_waits_for_a_thread(host: FakeHost, device: Reader) -> None:
    go = threading.Event()

    def work(ending: threading.Event) -> None:
        go.wait()
        if not ending.is_set():
            device.post(lambda: device.steps.append("done"))

    device.thread(work)
    go.set()
    host.wait(lambda: device.steps)
    assert device.steps == ["done"]
    with pytest.raises(TimeoutError, match="is not true after 0 s"):
        host.wait(lambda: False, seconds=0)


class Plain(Endpoint):
    identity = Reader.identity
    bars = Reader.bars


class Card(MultiFunction):
    functions = (Plain,)


class Forgetful(Reader):
    def __init__(self) -> None:
        self.steps = []


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Reader, r"got a class; make the device: FakeHost\(Reader\(\)\)"),
        (Card, r"got a class"),
        (5, r"got a int; give it an Endpoint"),
        (Forgetful(), r"Forgetful.__init__ did not call .* super\(\).__init__\(trace\)"),
    ],
)
def test_what_is_not_a_device(device: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        FakeHost(device)


def test_card_has_a_host_for_each_function() -> None:
    card = Card()
    with pytest.raises(TypeError, match=r"FakeHost\(card.endpoints\[0\]\)"):
        FakeHost(card)  # type: ignore[arg-type]
    with FakeHost(card.endpoints[0]) as host:
        assert host.read(0, Reg.SEEN) == 0


@pytest.mark.parametrize(
    ("base", "size"), [(0, 1000), (12, 4096), (0x4000_0000, 4096), (1 << 64, 4096), (0, 0)]
)
def test_memory_that_cannot_be(base: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"make both multiples|choose another base"):
        FakeHost(Reader(), base=base, size=size)


def test_accesses_that_no_cpu_does(host: FakeHost) -> None:
    for bar, offset in ((0, 0x1000), (0, 0xFFE), (0, -4), (3, 0), (9, 0)):
        with pytest.raises(ValueError, match=f"of BAR{bar}, which has .*; look at the number"):
            host.read(bar, offset)
    with pytest.raises(ValueError, match="an access of 3 bytes; make it 1, 2, 4 or 8"):
        host.read(0, 0, 3)
    with pytest.raises(ValueError, match="0x100000000 does not fit into 4 bytes; give a size"):
        host.write(0, Reg.BUG, 1 << 32)
    assert host.read(0, 0xFFC) == 0
