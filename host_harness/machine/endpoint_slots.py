# SPDX-License-Identifier: Apache-2.0
"""The slots of endpoints under HOTPLUG=1: unplugs and replugs a device, for a guest test that asks.

    guest: slot (request, device)                      host: slot done, or an error in words

=========  =========================================================================
"button"   QEMU presses the slot's attention button, and the guest decides (device_del)
"removed"  wait until QEMU has forgotten the device, so that it can be plugged again
"plug"     plug the device in again, with the arguments of its first start (device_add)
=========  =========================================================================

The device process lives on: its functions lose their client, and get the next one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dma_rehearsal.device.layout.result_frames import Message
from dma_rehearsal.host_harness.machine.channel import GuestProtocolError
from dma_rehearsal.host_harness.machine.plugged_functions import PluggedFunction
from dma_rehearsal.host_harness.machine.qmp import Monitor, MonitorError
from dma_rehearsal.host_harness.process.errors import UsageError

REMOVED_LIMIT_S = 5.0
"""The time in which QEMU forgets a device whose slot the guest has turned off; usually 10 ms."""

BUTTON, REMOVED, PLUG = "button", "removed", "plug"
_LOOK_S = 0.01
_DEVICES = "/machine/peripheral"  # QEMU's devices that have an id

Devices = Mapping[int, Sequence[Mapping[str, Any]]]


class Machine(Protocol):
    """The part of a `vm.Vm` that is used here."""

    @property
    def monitor(self) -> Monitor:
        """Its QMP connection."""

    @property
    def slots(self) -> Devices:
        """The arguments of ``device_add`` for each function, by device."""

    def send(self, phase: str, message: Message) -> None:
        """Send a message to the guest."""


def check(functions: Sequence[PluggedFunction]) -> None:
    """Raise UsageError for a function that QEMU cannot unplug.

    QEMU 10.1 to 11.1 remove the memory region of the PBA after that of its BAR, and abort
    (hw/vfio-user/pci.c, vfio_user_instance_finalize).
    """
    for each in functions:
        if each.vectors:
            raise UsageError(
                f"HOTPLUG=1: {each.id} has MSI-X, and QEMU aborts when a vfio-user device with "
                "MSI-X is unplugged",
                "serve a subclass with vectors = 0 and messages = 1 (MSI) for these tests "
                "(docs/hotplug.md)",
            )


def by_device(
    functions: Sequence[PluggedFunction], devices: Sequence[Mapping[str, Any]]
) -> Devices:
    """Return the arguments of each device's functions, in the order in which they are plugged in.

    Function 0 comes last: with it QEMU tells the guest of the whole slot.
    """
    found: dict[int, list[Mapping[str, Any]]] = {}
    pairs = zip(functions, devices, strict=True)
    for function, device in sorted(pairs, key=lambda pair: pair[0].number, reverse=True):
        found.setdefault(function.device, []).append(device)
    return found


def answer(vm: Machine, message: Message, limit_s: float) -> None:
    """Serve one "slot" message within ``limit_s`` seconds.

    What QEMU refuses is told to the guest as "error". GuestProtocolError for a malformed request,
    NoVerdict when the machine is lost.
    """
    request, number = message.get("request"), message.get("device")
    if request not in (BUTTON, REMOVED, PLUG) or type(number) is not int:
        raise GuestProtocolError(f"the guest asks a slot for {request!r:.40} of {number!r:.40}")
    reply: Message = {"type": "slot done"}
    try:
        if number not in vm.slots:
            raise MonitorError(f"device {number} is in no slot: run with HOTPLUG=1")
        devices = vm.slots[number]
        if request == PLUG:
            _await_removed(vm, devices, limit_s)
            for device in devices:
                vm.monitor.command("device_add", **device)
        elif request == BUTTON:
            vm.monitor.command("device_del", id=devices[-1]["id"])
        else:
            _await_removed(vm, devices, limit_s)
    except MonitorError as error:
        reply["error"] = str(error)
    vm.send("test", reply)


def _await_removed(vm: Machine, devices: Sequence[Mapping[str, Any]], limit_s: float) -> None:
    """Wait until QEMU has none of these devices. MonitorError when that takes too long."""
    ids = {each["id"] for each in devices}
    limit = min(limit_s, REMOVED_LIMIT_S)
    deadline = time.monotonic() + limit
    while left := ids & {each["name"] for each in vm.monitor.command("qom-list", path=_DEVICES)}:
        if time.monotonic() > deadline:
            raise MonitorError(
                f"QEMU still has {', '.join(sorted(left))} in its slot after {limit:g} s: the "
                "guest has not turned the slot off"
            )
        time.sleep(_LOOK_S)
