# SPDX-License-Identifier: Apache-2.0
"""A PCI bus in sysfs, with processes beside it, as folders."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dma_rehearsal.guest.agent import pci_functions

BRIDGE, ISA, NETWORK, OTHER = 0x060000, 0x060100, 0x020000, 0xFF0000
EXERCISER, EDU, PLATFORM = "0000:00:02.0", "0000:00:03.0", "0000:09:00.0"
ROOT_PORT, VIRTIO = "0000:08:00.0", "0000:00:01.0"


class FakePci:
    """The bus, in the folder ``root``: bridges, virtio and three functions under test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bus = root / "bus"
        self.devices = root / "sys-devices"
        self.processes = root / "proc"
        for folder in (self.bus / "devices", self.devices, self.processes, root / "char"):
            folder.mkdir(parents=True)
        (self.bus / "rescan").touch()
        self.add("0000:00:00.0", 0x8086, 0x29C0, BRIDGE)
        self.add("0000:00:1f.0", 0x8086, 0x2918, ISA)
        self.add(VIRTIO, 0x1AF4, 0x1003, 0x078000)
        self.add(EXERCISER, 0x13B5, 0xED01, OTHER, driver="dma_rehearsal")
        self.add(EDU, 0x1234, 0x11E8, NETWORK)
        self.add(ROOT_PORT, 0x1B36, 0x000C, 0x060400)
        self.add(PLATFORM, 0x1B36, 0x1234, OTHER, parent=ROOT_PORT)

    def add(
        self,
        address: str,
        vendor: int,
        device: int,
        code: int,
        *,
        driver: str = "",
        parent: str = "",
    ) -> None:
        """Add a function with one BAR, and capabilities of MSI (4 vectors) and MSI-X (16)."""
        folder = self.devices / parent / address
        folder.mkdir(parents=True)
        for name, value in {
            "vendor": vendor,
            "device": device,
            "subsystem_vendor": vendor,
            "subsystem_device": 1,
            "revision": 2,
            "class": code,
        }.items():
            (folder / name).write_text(f"{value:#x}\n")
        (folder / "resource").write_text(
            "0x00000000c0000000 0x00000000c0000fff 0x0000000000040200\n" + "0x0 0x0 0x0\n" * 6
        )
        (folder / "config").write_bytes(configuration([(0x05, 0x0004), (0x11, 15)]))
        (folder / "resource0").touch()
        (folder / "remove").touch()
        if driver:
            (self.bus / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(self.bus / "drivers" / driver)
        (self.bus / "devices" / address).symlink_to(folder)

    def process(self, number: int, *, opens: str = "", maps: str = "") -> None:
        """Add a process that has a file open or mapped."""
        folder = self.processes / str(number)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text("holder\n")
        (folder / "fd" / "0").symlink_to("/dev/zero")
        if opens:
            (folder / "fd" / "7").symlink_to(opens)
        lines = ["7f00-7f10 r-xp 00000000 00:00 0", "7f20-7f30 rw-s 00000000 00:19 99   " + maps]
        (folder / "maps").write_text("\n".join(lines if maps else lines[:1]) + "\n")

    def removed(self) -> list[str]:
        """Return the functions that were told to go."""
        return [
            path.parent.name
            for path in sorted((self.bus / "devices").glob("*/remove"))
            if path.read_text() == "1"
        ]


def configuration(capabilities: list[tuple[int, int]], pin: int = 1) -> bytes:
    """Return a configuration space with capabilities: identity and Message Control."""
    space = bytearray(256)
    space[0x06], space[0x34], space[0x3D] = 0x10, 0x40, pin
    for index, (identity, control) in enumerate(capabilities):
        place = 0x40 + 0x10 * index
        following = place + 0x10 if index + 1 < len(capabilities) else 0
        struct.pack_into("<BBH", space, place, identity, following, control)
    return bytes(space)


def use(bus: FakePci, patch: pytest.MonkeyPatch) -> None:
    """Have `pci_functions` use this bus."""
    patch.setattr(pci_functions, "PCI", bus.bus)
    patch.setattr(pci_functions, "PROCESSES", bus.processes)
    patch.setattr(pci_functions, "CHARACTER_DEVICES", bus.root / "char")
    patch.setattr(pci_functions, "DETACHED", bus.root / "run" / "detached")
