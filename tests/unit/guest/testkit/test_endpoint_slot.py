# SPDX-License-Identifier: Apache-2.0
"""A test's side of hot-plug, on folders in place of sysfs and a host that answers by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers import pci_sysfs
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.testkit import endpoint_slot
from dma_rehearsal.guest.testkit.endpoint_slot import EndpointSlot

PLACE, FUNCTION = "0000:01:00", "0000:01:00.0"
CAPABILITY, CONTROL = 0x40, 0x40 + 0x18
ON, OFF = 0x01F1, 0x07F1 & ~0x0100 | 0x0300  # power and indicator, beside bits that stay
SOON = 0.05


class Machine:
    """The kernel's files, and the host: ``said`` are its requests, ``acts`` what they do."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "bus/pci/devices"
        self.slot = root / "bus/pci/slots/1"
        self.port = root / "port"
        self.said: list[str] = []
        self.acts: dict[str, Callable[[], None]] = {"plug": self.plug, "button": self.unplug}
        self.error: str | None = None
        for folder in (self.devices, self.slot, self.port, root / "class/pci_bus/0000:01"):
            folder.mkdir(parents=True)
        (root / "class/pci_bus/0000:01/device").symlink_to(self.port)
        (self.slot / "address").write_text(f"{PLACE}\n")
        (self.slot / "power").write_text("1")
        config = bytearray(256)
        config[0x34], config[CAPABILITY] = CAPABILITY, 0x10
        config[CONTROL : CONTROL + 2] = ON.to_bytes(2, "little")
        (self.port / "config").write_bytes(config)
        self.plug()

    def plug(self) -> None:
        (self.devices / FUNCTION).mkdir(exist_ok=True)

    def unplug(self) -> None:
        (self.devices / FUNCTION).rmdir()

    def send(self, *messages: dict[str, Any]) -> None:
        (message,) = messages
        assert (message["type"], message["nodeid"], message["device"]) == ("slot", "a_test", 0)
        self.said.append(message["request"])
        self.acts.get(message["request"], lambda: None)()

    def receive(self, kind: str | None = None) -> dict[str, Any]:
        return {"type": kind, **({"error": self.error} if self.error else {})}


class Refused:
    """The announcements of a test."""

    newest = 7

    def __init__(self) -> None:
        self.excused: list[tuple[DmaReason, int]] = []

    def excuse(self, reason: DmaReason, since: int) -> None:
        self.excused.append((reason, since))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(pci_sysfs, "DEVICES", tmp_path / "bus/pci/devices")
    monkeypatch.setattr(endpoint_slot, "SLOTS", tmp_path / "bus/pci/slots")
    return Machine(tmp_path)


@pytest.fixture
def refused() -> Refused:
    return Refused()


@pytest.fixture
def slot(machine: Machine, refused: Refused) -> EndpointSlot:
    return EndpointSlot(machine, "a_test", refused)  # type: ignore[arg-type]


def test_the_functions_are_those_in_the_slot(slot: EndpointSlot, machine: Machine) -> None:
    (machine.devices / "0000:00:04.0").mkdir()
    assert slot.functions == [FUNCTION]


def test_a_machine_without_slots_is_told_the_remedy(machine: Machine, refused: Refused) -> None:
    with pytest.raises(PciError, match="no slot for device 1: run with HOTPLUG=1"):
        EndpointSlot(machine, "a_test", refused, 1)  # type: ignore[arg-type]


def test_unplug_turns_the_slot_off_and_waits_for_both_sides(
    slot: EndpointSlot, machine: Machine, refused: Refused
) -> None:
    machine.unplug()
    slot.unplug()
    assert (machine.slot / "power").read_text() == "0"
    assert slot.plug() == [FUNCTION]
    assert machine.said == ["removed", "plug"]
    assert not refused.excused


def test_the_button_is_the_hosts(slot: EndpointSlot, machine: Machine) -> None:
    slot.press_button()
    assert machine.said == ["button", "removed"]
    assert (machine.slot / "power").read_text() == "1"


@pytest.mark.parametrize("act", ["unplug", "press_button"])
def test_a_device_that_stays_is_named(slot: EndpointSlot, machine: Machine, act: str) -> None:
    machine.acts.clear()
    with pytest.raises(PciError, match=rf"the kernel still has the device.*there is {FUNCTION}"):
        getattr(slot, act)(limit_s=SOON)


def test_a_device_that_does_not_come_is_told(slot: EndpointSlot, machine: Machine) -> None:
    machine.unplug()
    machine.acts.clear()
    with pytest.raises(PciError, match=r"has not found the device after .*there is nothing"):
        slot.plug(limit_s=SOON)


def test_what_the_host_refuses_is_told(slot: EndpointSlot, machine: Machine) -> None:
    machine.error = "QEMU still has it"
    with pytest.raises(PciError, match=f"{PLACE}: the host cannot do 'plug': QEMU still has it"):
        slot.plug()


def test_a_surprise_turns_the_power_off_without_telling_and_waits_for_pciehp(
    slot: EndpointSlot, machine: Machine, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU removes a device at the write of both bits. The slot has its power back at once."""
    written: list[int] = []
    write = os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        assert offset == CONTROL
        written.append(int.from_bytes(data, "little"))
        if len(written) == 1:
            machine.unplug()
        else:  # pciehp sees a slot without a device, and turns it off
            data = OFF.to_bytes(2, "little")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    slot.pull()
    assert written == [OFF & ~0x20, ON]
    assert not refused.excused
    slot.plug()
    assert refused.excused == [(DmaReason.UNMAPPED, 7)], "once QEMU has parted"
    assert machine.said == ["removed", "plug"]


def test_a_slot_that_pciehp_does_not_turn_off_is_told(slot: EndpointSlot) -> None:
    with pytest.raises(PciError, match="pciehp has not turned it off after"):
        slot.pull(limit_s=SOON)
