# SPDX-License-Identifier: Apache-2.0
"""The slot that holds the endpoint under HOTPLUG=1: a test unplugs it, and plugs it in again.

The slot is that of a PCI Express root port, and Linux's driver for it is pciehp (PCI Express Base
Specification 5.0, 6.7; Linux's Documentation/ABI/testing/sysfs-bus-pci and
Documentation/PCI/pciehp.rst). The host is QEMU's side of it: `host_harness.machine.endpoint_slots`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers import pci_sysfs
from dma_rehearsal.guest.drivers.kernel_binding import within
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.session import HostLink
from dma_rehearsal.guest.testkit.expected_refusals import Expectations

SLOTS: Final = Path("/sys/bus/pci/slots")
LIMIT_S: Final = 30.0
"""The time that an unplug or a plug may take. Pressing the button takes at least 5 s."""
_LOOK_S: Final = 0.02
# PCI Express Base Specification 5.0, 7.5.1.1, 7.5.3.2 and 7.5.3.10
_CAPABILITIES: Final = 0x34
_PCI_EXPRESS: Final = 0x10
_SLOT_CONTROL: Final = 0x18
_HOTPLUG_INTERRUPT: Final = 1 << 5
_POWER_INDICATOR, _INDICATOR_ON, _INDICATOR_OFF = 3 << 8, 1 << 8, 3 << 8
_POWER_OFF: Final = 1 << 10
_CAPABILITIES_MAX: Final = 48  # a broken list may be a ring


class EndpointSlot:
    """The slot of one device of ENDPOINT; ``device`` counts them from 0.

    `PciError` for a slot that the guest does not have, and for a step that is not done in time.
    """

    def __init__(self, link: HostLink, nodeid: str, refused: Expectations, device: int = 0) -> None:
        self._link, self._nodeid, self._device = link, nodeid, device
        self._refused = refused
        self._pulled_at: int | None = None  # the newest request before a surprise
        self._folder = SLOTS / str(device + 1)
        if not self._folder.exists():
            raise PciError(
                f"the guest has no slot for device {device}: run with HOTPLUG=1 (docs/hotplug.md)"
            )

    @property
    def address(self) -> str:
        """Domain, bus and device of what is in the slot, as 0000:01:00."""
        return (self._folder / "address").read_text().strip()

    @property
    def functions(self) -> list[str]:
        """The PCI addresses of the functions that the kernel has in the slot, ascending."""
        return sorted(each.name for each in pci_sysfs.DEVICES.glob(f"{self.address}.*"))

    def unplug(self, limit_s: float = LIMIT_S) -> None:
        """Turn the slot off, as an administrator does: the driver's ``remove`` runs first.

        The device is there while ``remove`` runs.
        """
        within(limit_s, lambda: self._power("0"), "the unplug")
        self._gone(limit_s)

    def press_button(self, limit_s: float = LIMIT_S) -> None:
        """Have the host press the attention button: the kernel waits 5 s, then does as `unplug`."""
        self._ask("button")
        self._gone(limit_s)

    def pull(self, limit_s: float = LIMIT_S) -> None:
        """Remove the device by surprise: it is gone before the kernel and its driver know.

        Its registers read as 0 from now on, where hardware would give ones. The driver's ``remove``
        runs when pciehp sees the empty slot; this returns after it. DMA that the device tries while
        it loses its client is refused as UNMAPPED, and needs no announcement.
        """
        self._pulled_at = self._refused.newest
        with _Port(self._port) as port:
            told = port.control
            # Power off, with the indicator off: QEMU then removes the device at once. The
            # interrupt is off meanwhile, and pciehp finds a slot with power and without a device.
            silent = told & ~(_POWER_INDICATOR | _HOTPLUG_INTERRUPT)
            port.control = silent | _POWER_OFF | _INDICATOR_OFF
            port.control = told & ~_POWER_INDICATOR | _INDICATOR_ON
            # pciehp turns the indicator off last, 1 s after the power (6.7.1.8). QEMU would remove
            # a device that is plugged in before that.
            off = _POWER_OFF | _INDICATOR_OFF
            self._await(lambda: port.control & off == off, "pciehp has not turned it off", limit_s)
        self._gone(limit_s)

    def plug(self, limit_s: float = LIMIT_S) -> list[str]:
        """Have the host plug the device in again; return its functions' addresses.

        A driver that the kernel has for them is bound by itself, a little later.
        """
        self._ask("plug")
        if self._pulled_at is not None:  # the device process has parted from the client before
            self._refused.excuse(DmaReason.UNMAPPED, self._pulled_at)
            self._pulled_at = None
        self._await(lambda: bool(self.functions), "the kernel has not found the device", limit_s)
        return self.functions

    @property
    def _port(self) -> Path:
        """The folder of the root port, whose secondary bus is the slot's."""
        bus = self.address.rpartition(":")[0]
        return (pci_sysfs.DEVICES.parent.parent.parent / "class/pci_bus" / bus / "device").resolve()

    def _power(self, word: str) -> None:
        descriptor = os.open(self._folder / "power", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, word.encode())
        finally:
            os.close(descriptor)

    def _gone(self, limit_s: float) -> None:
        self._await(lambda: not self.functions, "the kernel still has the device", limit_s)
        self._ask("removed")

    def _await(self, condition: Callable[[], bool], otherwise: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                there = ", ".join(self.functions) or "nothing"
                raise PciError(
                    f"slot {self.address}: {otherwise} after {limit_s:g} s; there is {there}. Look "
                    "for pciehp in the kernel's log"
                )
            time.sleep(_LOOK_S)

    def _ask(self, request: str) -> None:
        words = {"type": "slot", "nodeid": self._nodeid}
        self._link.send({**words, "request": request, "device": self._device})
        if error := self._link.receive("slot done").get("error"):
            raise PciError(f"slot {self.address}: the host cannot do {request!r}: {error}")


class _Port:
    """The Slot Control register of a root port, by its configuration space."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "config", os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> _Port:
        self._offset = self._capability() + _SLOT_CONTROL
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._file)

    @property
    def control(self) -> int:
        return self._read(self._offset, 2)

    @control.setter
    def control(self, value: int) -> None:
        os.pwrite(self._file, value.to_bytes(2, "little"), self._offset)

    def _read(self, offset: int, size: int) -> int:
        return int.from_bytes(os.pread(self._file, size, offset), "little")

    def _capability(self) -> int:
        place = self._read(_CAPABILITIES, 1)
        for _ in range(_CAPABILITIES_MAX):
            if not place or self._read(place, 1) == _PCI_EXPRESS:
                break
            place = self._read(place + 1, 1)
        return place
