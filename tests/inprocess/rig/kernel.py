# SPDX-License-Identifier: Apache-2.0
"""The kernel module's PCI driver, for the rig: interrupts, and who may have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dma_rehearsal.device.pci.msix import ENABLE, MESSAGE_CONTROL, MsiX
from dma_rehearsal.guest.iobuffer import IOBusyError
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts

if TYPE_CHECKING:
    from tests.inprocess.rig.machine import Machine


@dataclass
class Line:
    """QEMU's end of the INTx line: a signal that it has not seen yet, the level, the interrupts."""

    told: bool = False
    up: bool = False
    count: int = 0


class KernelFunction:
    """The state that the module's PCI driver keeps for the exerciser. Subclasses err."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.interrupts = Interrupts.MSIX
        self.chooser: object = None
        self.holders: dict[int, object] = {}
        self.masked = True

    def config(self, offset: int) -> int:
        return int.from_bytes(self.machine.exerciser.region_read(7, offset, 2), "little")

    def enable(self) -> None:
        """Have MSI-X enabled or not, as the kernel does for its driver, and after a reset."""
        device = self.machine.exerciser
        place = device.config.start_of(MsiX)
        if place is not None:
            control = ENABLE * (self.interrupts is Interrupts.MSIX)
            device.region_write(7, place + MESSAGE_CONTROL, control.to_bytes(2, "little"))

    def set_disable(self, on: bool) -> None:
        command = self.config(4) & ~(1 << 10) | on << 10
        self.machine.exerciser.region_write(7, 4, command.to_bytes(2, "little"))

    def lets_through(self) -> bool:
        return self.interrupts is Interrupts.INTX and not self.config(4) & 1 << 10

    def pending(self) -> bool:
        return bool(self.config(6) & 1 << 3)

    def handle(self) -> None:
        if self.pending():
            self.set_disable(True)
            if not self.masked:
                self.masked = True
                self.machine.signal(0)

    def mask(self) -> None:
        self.masked = True
        self.set_disable(True)

    def unmask(self) -> None:
        if self.masked and self.pending():
            self.machine.signal(0)
        elif self.masked:
            self.masked = False
            self.set_disable(False)

    def choose(self, kind: Interrupts, file: object) -> None:
        if self.holders or self.chooser not in (None, file):
            raise IOBusyError("held")
        self.switch(kind)
        self.chooser = None if kind is Interrupts.MSIX else file

    def switch(self, kind: Interrupts) -> None:
        self.interrupts = kind
        self.enable()
        self.mask()
        self.machine.line.told = self.machine.line.up = False
        self.machine.exerciser.end_of_interrupt()

    def set_eventfd(self, vector: int, fd: int, file: object) -> None:
        if self.holders.get(vector, file) is not file or self.chooser not in (None, file):
            raise IOBusyError("held")
        self.machine.eventfds.pop(vector, None)
        self.holders.pop(vector, None)
        if fd >= 0:
            self.machine.eventfds[vector] = fd
            self.holders[vector] = file
        if self.interrupts is Interrupts.INTX:
            self.unmask() if fd >= 0 else self.mask()

    def close(self, file: object) -> None:
        for vector in [vector for vector, holder in self.holders.items() if holder is file]:
            self.set_eventfd(vector, -1, file)
        if self.chooser is file:
            self.choose(Interrupts.MSIX, file)
