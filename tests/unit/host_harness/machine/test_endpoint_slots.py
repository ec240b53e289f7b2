# SPDX-License-Identifier: Apache-2.0
"""The host's side of hot-plug, with a monitor that notes what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.machine import endpoint_slots, qemu_command
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.machine.qmp import MonitorError
from dma_rehearsal.host_harness.process.errors import UsageError

CARD = tuple(PluggedFunction(0, number, Path(f"/s/exerciser.{number}")) for number in (0, 1))
DEVICES = qemu_command.endpoint_devices(CARD, hotplug=True)


class Qemu:
    """QEMU's devices by id; one that is unplugged is forgotten after so many looks."""

    def __init__(self, *ids: str, looks: int = 0) -> None:
        self.ids, self.looks = set(ids), looks
        self.told: list[tuple[str, str]] = []

    def command(self, name: str, **arguments: Any) -> Any:
        if name == "qom-list":
            self.looks -= 1
            return [{"name": each} for each in ("platform", *(self.ids if self.looks >= 0 else ()))]
        if arguments.get("id") == "refused":
            raise MonitorError("device_add: no")
        self.told.append((name, arguments["id"]))
        return {}


class Vm:
    def __init__(
        self, monitor: Qemu, slots: Mapping[int, Sequence[Mapping[str, Any]]] | None = None
    ) -> None:
        self.monitor = monitor
        self.slots = endpoint_slots.by_device(CARD, DEVICES) if slots is None else slots
        self.sent: list[Message] = []

    def send(self, _phase: str, message: Message) -> None:
        self.sent.append(message)


def ask(vm: Vm, request: object, device: object = 0, limit_s: float = 60) -> str:
    """Return the error that the guest is told, empty without one."""
    message = {"type": "slot", "request": request, "device": device}
    endpoint_slots.answer(vm, message, limit_s)  # type: ignore[arg-type]
    (reply,) = vm.sent
    assert reply["type"] == "slot done"
    return str(reply.get("error", ""))


def test_function_0_is_plugged_last() -> None:
    monitor = Qemu("exerciser", "exerciser.1", looks=2)
    assert ask(Vm(monitor), "plug") == ""
    assert monitor.told == [("device_add", "exerciser.1"), ("device_add", "exerciser")]


def test_the_button_is_pressed_once_for_the_whole_slot() -> None:
    monitor = Qemu("exerciser", "exerciser.1", looks=1000)
    assert ask(Vm(monitor), "button") == ""
    assert monitor.told == [("device_del", "exerciser")]


def test_qemu_has_time_to_forget_the_device() -> None:
    assert ask(Vm(Qemu("exerciser", looks=3)), "removed") == ""


@pytest.mark.parametrize("request_", ["removed", "plug"])
def test_a_device_that_stays_is_named(request_: str) -> None:
    monitor = Qemu("exerciser", looks=1000)
    error = ask(Vm(monitor), request_, limit_s=0)
    assert "QEMU still has exerciser in its slot" in error
    assert "the guest has not turned the slot off" in error
    assert not monitor.told


def test_what_qemu_refuses_is_told() -> None:
    assert ask(Vm(Qemu(), {0: [{"id": "refused"}]}), "plug") == "device_add: no"


def test_a_device_without_a_slot_is_told_the_remedy() -> None:
    assert "run with HOTPLUG=1" in ask(Vm(Qemu(), {}), "plug")


@pytest.mark.parametrize(("request_", "device"), [("pull", 0), (None, 0), ("plug", "0"), ([], 0)])
def test_nonsense_is_the_guests_mistake(request_: object, device: object) -> None:
    with pytest.raises(GuestProtocolError, match="the guest asks a slot for"):
        ask(Vm(Qemu()), request_, device)


def test_msix_is_refused_and_msi_is_not() -> None:
    endpoint_slots.check(CARD)
    with pytest.raises(UsageError, match=r"endpoint1 has MSI-X, and QEMU aborts") as refusal:
        endpoint_slots.check((*CARD, PluggedFunction(1, 0, Path("/s/endpoint1"), vectors=2)))
    assert "messages = 1" in str(refusal.value.hint)
