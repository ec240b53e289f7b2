# SPDX-License-Identifier: Apache-2.0
"""Timers with a name: what a migration carries of them, and which states it refuses."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    Access,
    Bars,
    Command,
    Endpoint,
    Identity,
    Register,
    RegisterBar,
    StatePart,
)
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import timers
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import DeviceState as S
from dma_rehearsal.device.vfio_user.migration import Migration
from tests.unit.device.fakes import BASE, FakeClient, write32
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.serving import serving

Reg = IntEnum("Reg", {"COUNT": 0, "GO": 4})
MARK = 16
NOT_SET = (1 << 64) - 1


class Poller(Endpoint):
    """Its timers have the names poll and retry."""

    identity = Identity(0x1234, 1, 0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar((Register(Reg.COUNT, Access.RW), Register(Reg.GO, Access.WO)))
    }
    state: ClassVar[Sequence[StatePart]] = (StatePart(0, 0, 4),)
    command_at_reset = Command.MEMORY_SPACE | Command.BUS_MASTER

    def __init__(self, trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.now = 1000.0
        self.timers.clock = lambda: self.now
        self.ran: list[str] = []

    def timer_poll(self) -> None:
        """Take note."""
        self.ran.append("poll")

    def timer_retry(self) -> None:
        """Take note."""
        self.ran.append("retry")

    def pass_time(self, seconds: float) -> list[str]:
        """Run what is due in that time; return what ran."""
        self.now += seconds
        self.ran.clear()
        self.timers.run_due()
        return [*self.ran]

    def on_load(self) -> None:
        """Refuse some states."""
        if self.registers(0)[Reg.COUNT] == 99:
            raise ValueError("a count of 99")


def moved(device: Endpoint) -> Migration:
    assert device.migration is not None
    return device.migration


def saved(device: Endpoint) -> bytes:
    moved(device).set(S.STOP_COPY)
    return moved(device).read(1 << 20)


def load(device: Endpoint, state: bytes) -> None:
    moved(device).set(S.RESUMING)
    moved(device).write(state)
    moved(device).set(S.STOP)


def test_they_fire_in_another_instance_after_the_rest_of_their_time() -> None:
    source, target = Poller(), Poller()
    source.timers.named("poll", 5)
    source.now += 2
    state = saved(source)
    target.now = 50.0
    target.timers.named("retry", 1)
    load(target, state)
    assert target.pass_time(100) == [], "it stands still"
    moved(target).set(S.RUNNING)
    assert target.pass_time(2.9) == []
    assert target.pass_time(0.2) == ["poll"]
    assert target.timers.waiting == 0, "retry was not set in the source"


def test_format() -> None:
    device = Poller()
    device.registers(0)[Reg.COUNT] = 7
    device.timers.named("retry", 0.25)
    state = saved(device)
    assert len(state) == moved(device).size == 4 + MARK + 16
    assert (state[:4], state[4:16]) == (b"\7\0\0\0", b"DMATIMER\1\0\0\0")
    assert struct.unpack("<2Q", state[-16:]) == (NOT_SET, 250_000_000)


def test_stopped_and_running_again_they_go_on() -> None:
    """A migration that came to nothing."""
    device = Poller()
    device.timers.named("poll", 5)
    device.now += 2
    moved(device).set(S.STOP)
    device.now += 100
    moved(device).set(S.RUNNING)
    assert device.pass_time(2.9) == []
    assert device.pass_time(0.2) == ["poll"]


def test_what_is_due_when_it_is_stopped_is_due_when_it_runs() -> None:
    source, target = Poller(), Poller()
    source.timers.named("poll", 5)
    source.now += 9
    load(target, saved(source))
    moved(target).set(S.RUNNING)
    assert target.pass_time(0) == ["poll"]


def test_set_while_it_stands_still_it_is_saved() -> None:
    class Setter(Poller):
        def on_stopped(self) -> None:
            """Set one for later."""
            self.timers.named("retry", 3)

    assert struct.unpack("<2Q", saved(Setter())[-16:]) == (NOT_SET, 3_000_000_000)


def test_name_has_one_deadline() -> None:
    device = Poller()
    first = device.timers.named("poll", 5)
    device.timers.named("poll", 7)
    assert not first.active
    assert (device.timers.waiting, device.timers.left()) == (1, {"poll": 7.0})
    assert device.pass_time(6) == []
    assert device.pass_time(1) == ["poll"]
    assert (device.timers.waiting, device.timers.left()) == (0, {})
    device.timers.named("poll", -1).cancel()
    assert device.timers.left() == {}, "it is cancelled, and not taken out yet"
    assert device.pass_time(1) == []


def test_reset_clears_them() -> None:
    device = Poller()
    device.timers.named("poll", 5)
    device.device_reset()
    assert device.pass_time(9) == []
    assert device.timers.waiting == 0


def test_they_need_no_room_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "MAX_TIMERS", 0)
    device = Poller()
    device.timers.named("poll", 5)
    assert device.pass_time(5) == ["poll"]


def test_name_without_an_action() -> None:
    with pytest.raises(LookupError, match="define timer_pol; the device has timer_poll, timer_re"):
        Poller().timers.named("pol", 5)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 2.0**32 + 1])
def test_time_that_cannot_be_saved(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"the timer poll in .* s: at most 4294967296 s"):
        Poller().timers.named("poll", seconds)
    Poller().timers.named("poll", 2.0**32)


# States that it refuses.


def poll_left(value: int) -> bytes:
    state = saved(Poller())
    return state[:-16] + struct.pack("<2Q", value, NOT_SET)


@pytest.mark.parametrize("value", [(1 << 32) * 10**9 + 1, 1 << 63, NOT_SET - 1])
def test_time_that_no_timer_has(value: int) -> None:
    target = Poller()
    with pytest.raises(RemoteProtocolError, match=f"its timer poll has {value} ns left, more"):
        load(target, poll_left(value))
    assert (moved(target).state, target.timers.waiting) == (S.ERROR, 0)
    load(Poller(), poll_left((1 << 32) * 10**9))


def changed(at: int, data: bytes) -> bytes:
    state = bytearray(saved(Poller()))
    state[at : at + len(data)] = data
    return bytes(state)


@pytest.mark.parametrize("state", [changed(4, b"X"), changed(12, b"\2"), bytes(36), b"\xff" * 36])
def test_another_format(state: bytes) -> None:
    target = Poller()
    target.registers(0)[Reg.COUNT] = 5
    with pytest.raises(RemoteProtocolError, match=r"not of format 1: .* save it again"):
        load(target, state)
    assert moved(target).state is S.ERROR
    assert target.registers(0)[Reg.COUNT] == 5, "loaded in part"


class OtherTimers(Poller):
    """The next version of it."""

    timer_retry = None  # type: ignore[assignment]

    def timer_again(self) -> None:
        """Do nothing."""


class OtherState(Poller):
    """As many bytes from elsewhere."""

    state: ClassVar[Sequence[StatePart]] = (StatePart(0, 4, 4),)


@pytest.mark.parametrize("source", [OtherTimers, OtherState])
def test_state_of_another_version_of_the_device(source: type[Poller]) -> None:
    with pytest.raises(RemoteProtocolError, match="another state, or with other timers than poll"):
        load(Poller(), saved(source()))


def test_state_of_a_version_without_timers_is_too_short() -> None:
    target = Poller()
    with pytest.raises(RemoteProtocolError, match=r"4 of 36 bytes of a state: .* another version"):
        load(target, bytes(4))
    assert moved(target).state is S.RESUMING


def test_state_that_the_model_refuses_has_set_nothing_that_runs() -> None:
    source, target = Poller(), Poller()
    source.timers.named("poll", 0)
    source.registers(0)[Reg.COUNT] = 99
    with pytest.raises(RemoteProtocolError, match="a count of 99"):
        load(target, saved(source))
    assert target.pass_time(9) == []
    moved(target).reset(target.device_reset)
    assert target.pass_time(9) == []


# What a migration does not carry.


def test_what_it_does_not_carry_is_in_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = Trace(path)
    device = Poller(trace)
    device.timers.named("poll", 5)
    device.timers.after(5, lambda: None)
    device.post(lambda: None)

    async def sleeping() -> None:
        await device.sleep(9)

    device.start(sleeping())
    moved(device).set(S.STOP)
    moved(device).set(S.RUNNING)
    moved(device).set(S.STOP)
    trace.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    (event,) = [each for each in events if each["event"] == "not-migrated"]
    assert (event["timers"], event["posted"], event["coroutines"]) == (2, 1, 1)
    assert device.timers.left() == {"poll": 5.0}


def test_dma_in_mapped_memory_is_done_before_it_stops() -> None:
    client, device, ends = FakeClient(), Poller(), list[object]()
    device.attach(client)
    device.bus.write_async(BASE, b"data", ends.append)
    device.bus.write_async(0, b"data", ends.append)
    moved(device).set(S.STOP)
    assert client.ram[:4] == b"data"
    assert len(ends) == 2


def test_dma_that_starts_the_next_for_ever_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    client, device, ends = FakeClient(), Poller(), list[object]()
    device.attach(client)

    def again(_outcome: object) -> None:
        ends.append(1)
        device.bus.read_async(BASE, 4, again)

    monkeypatch.setattr("dma_rehearsal.device.endpoints.dma_queue.TURN_DMAS", 10)
    device.bus.read_async(BASE, 4, again)
    with pytest.raises(RemoteProtocolError, match="DMAs of the device"):
        moved(device).set(S.STOP)
    assert len(ends) == 40
    assert moved(device).state is S.RUNNING


def test_action_that_hold_has_wait_is_done_before_it_stops() -> None:
    class Writer(Poller):
        def write_go(self, _value: int) -> None:
            """Write to memory."""
            self.bus.write(BASE, b"held")

    client, device = FakeClient(), Writer()
    device.attach(client)
    device.bus.interconnect.holds.set(True)
    write32(device, 0, Reg.GO, 1)
    assert client.ram[:4] == bytes(4)
    moved(device).set(S.STOP)
    assert client.ram[:4] == b"held"


# By a client.


def test_by_a_client(tmp_path: Path) -> None:
    source, target = Poller(), Poller()
    source.timers.named("poll", 5)
    with serving(tmp_path / "first", source) as path, RawClient(path) as client:
        source.now += 4
        client.set_state(S.STOP_COPY)
        state = b"".join(iter(lambda: client.migration_read(10), b""))
    with serving(tmp_path / "second", target) as path, RawClient(path) as client:
        client.set_state(S.RESUMING)
        client.migration_write(state)
        client.set_state(S.RUNNING)
        assert target.timers.left() == {"poll": 1.0}
        target.now += 1
        target.timers.wake()
        while target.timers.waiting or not target.ran:
            pass
    assert target.ran == ["poll"]
