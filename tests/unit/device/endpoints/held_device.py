# SPDX-License-Identifier: Apache-2.0
"""A device whose actions are held, on a board of one or two functions."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, ClassVar

from dma_rehearsal.device.endpoints.bars import Bars, RegisterBar
from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.interconnect import Interconnect
from dma_rehearsal.device.endpoints.registers import Access, Register
from dma_rehearsal.device.endpoints.saved_state import StatePart
from dma_rehearsal.device.pci.config import Identity
from tests.unit.device.fakes import BASE, FakeClient, start, write32

Reg = IntEnum("Reg", {"NOW": 0, "LATER": 4, "BOTH": 8, "NOTIFY": 12, "PLAIN": 16, "SEEN": 20})


class Copier(Endpoint):
    """Each action writes its number to memory, at once, later or both, and tells what it did.

    ``done`` has the steps in their order; ``within`` is whether its code is in a side effect.
    """

    identity = Identity(vendor_id=0x1234, device_id=3, class_code=0xFF0000)
    bars: ClassVar[Bars] = {
        0: RegisterBar(
            (
                *(Register(each, Access.WO) for each in (Reg.NOW, Reg.LATER, Reg.BOTH, Reg.NOTIFY)),
                Register(Reg.PLAIN, Access.RW),
                Register(Reg.SEEN),
            )
        )
    }
    vectors = 1
    state = (StatePart(0, Reg.PLAIN, 4),)

    def __init__(self, interconnect: Interconnect | None = None) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.done: list[str] = []
        self.within = False
        self.client = FakeClient()
        if interconnect is not None:
            self.bus.interconnect = interconnect
        self.attach(self.client)
        start(self)

    def _event(self, event: str, **facts: object) -> None:
        events = getattr(self, "events", None)
        if events is not None:
            events.append((event, facts))

    def step(self, what: str) -> None:
        self.done.append(what)

    def _side_effect(self, body: Callable[[], None]) -> None:
        assert not self.within, "the model's code runs in the middle of a side effect"
        self.within = True
        try:
            body()
        finally:
            self.within = False

    def _at_once(self, number: int) -> None:
        self.step(f"begin {number}")
        try:
            self.bus.write(BASE + number, b"!")
        except DmaRefused as refusal:
            self.step(f"refused {number} {refusal.reason.name}")
            return
        self.bus.read(BASE, 1)
        self.step(f"end {number}")
        self.msix(0)

    def _later(self, number: int) -> None:
        self.step(f"start {number}")

        def done(outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                self.step(f"refused {number} {outcome.reason.name}")
                return
            self.step(f"end {number}")
            self.bus.read_async(BASE, 1, lambda _: self.step(f"after {number}"))

        self.bus.write_async(BASE + number, b"!", done)

    def write_now(self, number: int) -> None:
        self._side_effect(lambda: self._at_once(number))

    def write_later(self, number: int) -> None:
        self._side_effect(lambda: self._later(number))

    def write_both(self, number: int) -> None:
        def body() -> None:
            self._later(number)
            self._at_once(number + 1)

        self._side_effect(body)

    def write_notify(self, number: int) -> None:
        def body() -> None:
            self.step(f"notify {number}")
            self.msix(0)

        self._side_effect(body)

    def on_command(self) -> None:
        assert not self.within
        self.step("command")

    def on_reset(self) -> None:
        assert not self.within
        self.step("reset")

    def moved(self, number: int) -> bool:
        """Return whether the action's byte is in memory."""
        return self.client.ram[number] == ord("!")

    def why(self) -> list[str]:
        """Return why actions were let go, in order."""
        return [str(facts["why"]) for event, facts in self.events if event == "released"]


def held(interconnect: Interconnect | None = None) -> Copier:
    """Return a device on a board that holds."""
    made = Copier(interconnect)
    made.done.clear()
    made.bus.interconnect.holds.set(True)
    return made


def ask(device: Copier, register: Reg, number: int) -> None:
    """Have the device begin an action."""
    write32(device, 0, register, number)
