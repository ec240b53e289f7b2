# SPDX-License-Identifier: Apache-2.0
"""HOLD: an action waits before its first DMA, and goes by exactly the rules."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dma_rehearsal.device.endpoints.hold_board import HoldBoard, HoldRules
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.layout import HOLD_POLLS
from dma_rehearsal.device.vfio_user.errors import Unmapped
from dma_rehearsal.device.vfio_user.timers import Timers
from dma_rehearsal.device.vfio_user.turn import Turn
from tests.unit.device.endpoints.held_device import Copier, Reg, ask, held
from tests.unit.device.fakes import BASE, read32

NOW, LATER = Reg.NOW, Reg.LATER
KINDS = pytest.mark.parametrize("kind", [Reg.NOW, Reg.LATER], ids=["sync", "async"])


def board(device: Copier) -> HoldBoard:
    return device.bus.interconnect.holds


def release(device: Copier) -> None:
    """Do what a guest does by HOLD_RELEASE, and the function's thread after it."""
    board(device).release()
    assert device.dma_ready
    device.go_on()


def idle(device: Copier) -> bool:
    """Return whether nothing waits and no thread is left."""
    threads = [each for each in threading.enumerate() if each.name == "held action"]
    return not (board(device).held or device.bus.gate or device.bus.queue.holding or threads)


@KINDS
def test_not_held(kind: Reg) -> None:
    device = Copier()
    ask(device, kind, 1)
    assert device.moved(1)
    assert device.why() == []
    assert threading.active_count() == len(threading.enumerate())
    assert idle(device)


@KINDS
def test_an_action_waits_before_its_first_dma(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    assert not device.moved(1)
    assert device.done in (["begin 1"], ["start 1"])
    assert board(device).held == 1
    assert ("held", {"place": f"BAR0 {kind:#x} ({kind.name})"}) in device.events
    assert not device.dma_ready
    release(device)
    assert device.moved(1)
    assert device.done[-1] in ("end 1", "after 1")
    assert device.why() == ["asked"]
    assert idle(device)


def test_the_rest_of_the_action_is_not_held() -> None:
    device = held()
    ask(device, Reg.BOTH, 1)
    assert (device.moved(1), device.moved(2)) == (False, False)
    assert board(device).held == 1
    release(device)
    assert device.done == ["start 1", "begin 2", "end 2", "end 1", "after 1"]
    assert idle(device)


def test_an_interrupt_without_a_dma_is_not_held() -> None:
    device = held()
    ask(device, Reg.NOTIFY, 1)
    assert device.client.interrupts == [(2, 0)]
    assert idle(device)


def test_the_interrupt_of_a_dma_comes_after_it() -> None:
    device = held()
    ask(device, NOW, 1)
    assert device.client.interrupts == []
    release(device)
    assert device.client.interrupts == [(2, 0)]


@KINDS
def test_registers_are_read_meanwhile(kind: Reg) -> None:
    device = held()
    ask(device, Reg.PLAIN, 7)
    ask(device, kind, 1)
    assert read32(device, 0, Reg.PLAIN) == 7
    ask(device, Reg.PLAIN, 8)
    assert read32(device, 0, Reg.PLAIN) == 8
    assert device.region_read(7, 0, 2) == b"\x34\x12"
    assert not device.moved(1)
    release(device)
    assert device.moved(1)


@KINDS
@pytest.mark.parametrize("second", [Reg.NOW, Reg.LATER, Reg.NOTIFY])
def test_the_next_action_lets_the_first_go(kind: Reg, second: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    ask(device, second, 2)
    assert device.moved(1)
    assert not device.moved(2)
    assert device.why() == ["order"]
    first = [step for step in device.done if step.endswith(" 1")]
    assert device.done[: len(first)] == first
    board(device).release()
    device.go_on()
    assert idle(device)


@KINDS
def test_who_polls_lets_it_go(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    for _ in range(HOLD_POLLS - 1):
        read32(device, 0, Reg.SEEN)
    assert not device.moved(1)
    read32(device, 0, Reg.SEEN)
    assert device.moved(1)
    assert device.why() == ["poll"]
    assert idle(device)


@KINDS
def test_it_goes_by_itself(kind: Reg) -> None:
    device, now = held(), [0.0]
    timers = Timers(lambda: now[0])
    board(device).after = timers.after
    for number in (1, 2):
        ask(device, kind, number)
        now[0] += board(device).rules.limit_s - 0.01
        timers.run_due()
        assert not device.dma_ready
        now[0] += 0.02
        timers.run_due()
        device.go_on()
        assert device.moved(number)
        assert board(device).expired == number
    assert device.why() == ["expired", "expired"]
    ask(device, kind, 3)
    release(device)
    assert timers.next_deadline() is None, "the limit went with the wait"
    assert board(device).expired == 2
    board(device).reset()
    assert board(device).expired == 0


def test_a_wait_that_ended_cannot_expire() -> None:
    device, now = held(), [0.0]
    timers = Timers(lambda: now[0])
    board(device).after = timers.after
    ask(device, NOW, 1)
    now[0] += 3.0
    board(device).release()  # both are under way
    timers.run_due()
    device.go_on()
    assert board(device).expired == 0
    assert device.why() == ["asked"]


def test_off_lets_go() -> None:
    device = held()
    ask(device, NOW, 1)
    board(device).set(False)
    ask(device, NOW, 2)
    assert device.moved(1)
    assert device.moved(2)
    assert device.done == ["begin 1", "end 1", "begin 2", "end 2"]
    assert idle(device)


def test_off_while_an_action_begins() -> None:
    device = held()
    event = device._event

    def turn_off(name: str, **facts: object) -> None:
        event(name, **facts)
        if name == "held":
            board(device).set(False)

    device._hold._event = turn_off
    ask(device, NOW, 1)
    assert device.dma_ready
    device.go_on()
    assert device.moved(1)
    assert idle(device)


@KINDS
def test_two_functions(kind: Reg) -> None:
    interconnect = Interconnect()
    first, second = held(interconnect), held(interconnect)
    ask(first, kind, 1)
    ask(second, kind, 2)
    assert board(first).held == 2
    assert not first.moved(1)
    assert not second.moved(2)
    board(first).release()
    second.go_on()
    assert second.moved(2)
    assert not first.moved(1)
    assert board(first).held == 1, "the other was let go, and is not done"
    first.go_on()
    assert first.moved(1)
    assert idle(first)


@pytest.mark.parametrize("kind", [Reg.NOW, Reg.LATER, Reg.BOTH])
@pytest.mark.parametrize("let_go", [False, True])
@pytest.mark.parametrize("flr", [False, True])
def test_a_reset_cancels(kind: Reg, let_go: bool, flr: bool) -> None:
    device = held()
    ask(device, kind, 1)
    if let_go:
        board(device).release()
    if flr:
        device._function_level_reset()
    else:
        device.device_reset()
    assert not any(step.startswith(("end", "refused")) for step in device.done)
    assert not device.within
    assert not any(device.client.ram)
    assert device.why() == ["asked" if let_go else "reset"]
    device.go_on()
    assert not any(device.client.ram)
    assert idle(device)


def test_what_a_cancelled_action_does_on_its_way_out_moves_nothing() -> None:
    class Stubborn(Copier):
        def write_now(self, number: int) -> None:
            try:
                self.bus.write(BASE + number, b"!")
            finally:
                self.bus.write_async(BASE + 8, b"!", lambda _: None)
                self.bus.write(BASE + 9, b"!")

    device = Stubborn()
    board(device).set(True)
    ask(device, NOW, 1)
    device.device_reset()
    device.go_on()
    assert not any(device.client.ram)
    assert idle(device)


@KINDS
def test_the_end_of_bus_mastering_refuses_it(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    device.region_write(7, 4, b"\x02\x00")
    assert not device.moved(1)
    assert "refused 1 BUS_MASTER_OFF" in device.done
    assert device.done[-1] == "command"
    assert device.why() == ["command"]
    assert idle(device)


@KINDS
def test_d3_refuses_it(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    device.config.asleep = True
    device._power_changed()
    assert "refused 1 BUS_MASTER_OFF" in device.done
    assert idle(device)


@KINDS
def test_a_client_that_goes(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    device.detach()
    assert not device.moved(1)
    assert "refused 1 CLIENT_GONE" in device.done
    assert device.why() == ["client gone"]
    assert idle(device)


@KINDS
def test_a_migration_cancels(kind: Reg) -> None:
    device = held()
    ask(device, kind, 1)
    device._stop_state.stop()
    assert not any(step.startswith("end") for step in device.done)
    assert device.why() == ["stopped"]
    device._stop_state.run()
    assert not device.moved(1)
    assert idle(device)


@KINDS
def test_a_timer_waits_for_the_action(kind: Reg) -> None:
    device = held()

    def tick() -> None:
        assert not device.within
        device.step("tick")

    ask(device, kind, 1)
    device.timers.after(0, tick)
    assert device.timers.next_deadline() is None
    device.timers.run_due()
    assert "tick" not in device.done
    release(device)
    device.timers.run_due()
    assert device.done[-1] == "tick"


def test_a_timer_that_is_due_with_the_one_before() -> None:
    """A timer may come to wait in the middle of those that are due."""
    timers, ran = Timers(lambda: 0.0), list[str]()

    def first() -> None:
        ran.append("first")
        timers.deferred = True

    timers.after(0, first)
    timers.after(0, lambda: ran.append("second"))
    timers.run_due()
    assert ran == ["first"]
    timers.deferred = False
    timers.run_due()
    assert ran == ["first", "second"]


def test_an_unmap_comes_before_what_waits() -> None:
    """The earliest unmap that a driver may be caught at: the DMA that waits meets it."""

    class Told(Copier):
        def on_unmap(self, address: int, length: int) -> None:
            assert not self.within
            self.step(f"unmapped {address:#x} {length}")

    device = Told()
    board(device).set(True)
    ask(device, NOW, 1)

    def gone(address: int, length: int, *, write: bool) -> list[memoryview]:
        del length, write
        raise Unmapped(address)

    device.client.memory = gone  # type: ignore[method-assign]
    device.unmapped(BASE, 4096)
    assert device.done[-2:] == ["refused 1 UNMAPPED", f"unmapped {BASE:#x} 4096"]
    assert idle(device)


def test_a_model_that_forgets_its_dmas() -> None:
    device = held()
    ask(device, LATER, 1)
    device.bus.cancel()
    assert device.why() == ["cancelled"]
    assert idle(device)


@pytest.mark.parametrize("waits", [False, True])
def test_a_bug_of_the_model(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Copier):
        def write_now(self, number: int) -> None:
            if waits:
                self.bus.write(BASE, b"!")
            raise ZeroDivisionError(number)

    device = Broken()
    board(device).set(True)
    if waits:
        ask(device, NOW, 1)
        release(device)
        assert [each.levelno for each in caplog.records] == [logging.ERROR]
        assert "that was held" in caplog.text
    else:
        with pytest.raises(ZeroDivisionError):
            ask(device, NOW, 1)
    assert idle(device)


def test_an_uncaught_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Trusting(Copier):
        def write_now(self, number: int) -> None:
            self.bus.write(1 << 50, b"!")
            self.step(f"end {number}")

    device = Trusting()
    board(device).set(True)
    ask(device, NOW, 1)
    release(device)
    assert "catch DmaRefused to go on" in caplog.text
    assert idle(device)


def test_a_read_that_does_dma_is_not_held() -> None:
    class Reads(Copier):
        def read_seen(self) -> int:
            return self.bus.read(BASE, 1)[0]

    device = Reads()
    board(device).set(True)
    device.client.ram[0] = 5
    ask(device, NOW, 1)
    assert read32(device, 0, Reg.SEEN) == 5
    assert not device.moved(1)
    release(device)
    assert device.moved(1)


def rules(device: Copier, changed: HoldRules) -> None:
    board(device).rules = changed


@KINDS
def test_each_rule_can_be_broken(kind: Reg) -> None:
    """By the faults; and then something is seen that the tests above do not see."""
    device = held()
    rules(device, HoldRules(waits=False))
    ask(device, kind, 1)
    assert device.moved(1)
    device = held()
    rules(device, HoldRules(releases=False))
    ask(device, kind, 1)
    board(device).release()
    assert not device.dma_ready
    device.detach()
    device = held()
    rules(device, HoldRules(ordered=False))
    ask(device, Reg.NOW, 1)
    with pytest.raises(AssertionError, match="in the middle of a side effect"):
        ask(device, Reg.NOTIFY, 2)
    device.detach()
    device = held()
    rules(device, HoldRules(polls=1 << 32))
    ask(device, kind, 1)
    for _ in range(2 * HOLD_POLLS):
        read32(device, 0, Reg.SEEN)
    assert not device.moved(1)
    device.detach()


def poll(device: Copier) -> None:
    """Read more than half as often as lets an action go."""
    for _ in range(HOLD_POLLS * 5 // 8):
        read32(device, 0, Reg.SEEN)


Move = tuple[str, int]
MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("now", "later", "both", "notify", "plain", "read", "release", "go on", "off"),
                *("on", "tick", "bus master off", "bus master on", "reset", "expire", "cancel"),
            ]
        ),
        st.integers(0, 1),
    ),
    max_size=24,
)


@settings(max_examples=1000, deadline=None)
@given(moves=MOVES)
def test_any_sequence(moves: list[Move]) -> None:
    """Actions of one function begin and end in their order, and each ends."""
    interconnect, now = Interconnect(), [0.0]
    limits = Timers(lambda: now[0])
    interconnect.holds.after = limits.after
    pair = held(interconnect), held(interconnect)
    numbers = [10, 10]
    for what, which in moves:
        device = pair[which]
        numbers[which] += 2
        number = numbers[which]
        simple: dict[str, Callable[[], object]] = {
            "read": partial(poll, device),
            "release": interconnect.holds.release,
            "go on": device.go_on,
            "off": partial(interconnect.holds.set, False),
            "on": partial(interconnect.holds.set, True),
            "tick": partial(device.timers.after, 0, partial(device.step, "tick")),
            "bus master off": partial(device.region_write, 7, 4, b"\x02\x00"),
            "bus master on": partial(device.region_write, 7, 4, b"\x06\x00"),
            "reset": device._function_level_reset,
            "cancel": device.bus.cancel,
        }
        if what == "expire":
            now[0] += 3.0
            limits.run_due()
        elif what in simple:
            simple[what]()
        else:
            if what != "plain":
                device.step("ask")
            ask(device, Reg[what.upper()], number)
        if what == "reset":
            device.region_write(7, 4, b"\x06\x00")
        device.timers.run_due()
    interconnect.holds.set(False)
    for device in pair:
        device.go_on()
        device.timers.run_due()
    for device in pair:
        assert not device.within
        assert idle(device)
        assert device.bus.queue.idle
        assert device.timers.next_deadline() is None
        begun = [step for step in device.done if step.startswith(("begin", "start", "notify"))]
        order = [int(step.split()[1]) & ~1 for step in begun]
        assert order == sorted(order)
        ended = [int(step.split()[1]) & ~1 for step in device.done if step.startswith("end")]
        assert ended == sorted(ended)
        forgotten = "reset" in device.done or "cancel" in [what for what, _ in moves]
        if not forgotten:
            over = [step for step in device.done if step.startswith(("end", "refused", "notify"))]
            assert len(over) == len(begun)
        count = len([1 for event, _ in device.events if event == "held"])
        assert len(device.why()) == count
        device.detach()


def test_a_watcher_finds_the_thread_that_runs() -> None:
    """The one that serves waits meanwhile, and a stack of it would not show the model."""
    server = threading.get_ident()
    turn = Turn(server)
    seen: list[tuple[int, int]] = []

    class Looks(Copier):
        def write_now(self, number: int) -> None:
            del number
            seen.append((turn.running, threading.get_ident()))

    device = Looks()
    board(device).set(True)
    ask(device, NOW, 1)
    ((found, own),) = seen
    assert found == own != server
    assert turn.running == server
    assert Turn().running == 0
