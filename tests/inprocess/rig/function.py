# SPDX-License-Identifier: Apache-2.0
"""The devices of the rig as sysfs and the kernel module show them: each access is a call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.iobuffer import IOBusyError
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts, PciInfo
from tests.inprocess.rig.machine import Machine, place_bars


@dataclass
class Bar:
    """A BAR: each access is a call of the device."""

    machine: Machine
    endpoint: Endpoint
    number: int

    def __getitem__(self, offset: int) -> int:
        value = int.from_bytes(self.endpoint.region_read(self.number, offset, 4), "little")
        self._accessed()
        self.machine.go_on()
        return value

    def __setitem__(self, offset: int, value: int) -> None:
        self.endpoint.region_write(self.number, offset, value.to_bytes(4, "little"))
        self._accessed()
        self.machine.let_go()

    def _accessed(self) -> None:
        if self.endpoint is self.machine.exerciser:
            self.machine.bar_accessed()

    def load(self, offset: int, size: int) -> int:
        return int.from_bytes(self.endpoint.region_read(self.number, offset, size), "little")

    def store(self, offset: int, value: int, size: int) -> None:
        self.endpoint.region_write(self.number, offset, value.to_bytes(size, "little"))
        self._accessed()

    def set64(self, offset: int, value: int) -> None:
        self[offset], self[offset + 4] = value & 0xFFFF_FFFF, value >> 32

    def get64(self, offset: int) -> int:
        return self[offset] | self[offset + 4] << 32

    def block(self, offset: int, length: int) -> bytes:
        return self.endpoint.region_read(self.number, offset, length)

    @property
    def data(self) -> memoryview:
        size = self.endpoint.region_size(self.number)
        return memoryview(self.endpoint.region_read(self.number, 0, size))


@dataclass
class Function:
    """A device as sysfs and the module's PCI driver show it, or one open file of the driver."""

    machine: Machine
    endpoint: Endpoint
    address: str = "rig"
    closed: bool = False

    def enable(self) -> None: ...

    def bind(self) -> None: ...

    def close(self) -> None:
        self.closed = True
        self.machine.function.close(self)
        self.machine.go_on()

    def bar(self, number: int) -> Bar:
        return Bar(self.machine, self.endpoint, number)

    @property
    def requester_id(self) -> int:
        return self.endpoint.requester_id or 0

    bar_address = PciFunction.bar_address
    capability = PciFunction.capability
    extended_capability = PciFunction.extended_capability

    def config_read(self, offset: int, length: int) -> bytes:
        return self.endpoint.region_read(7, offset, length)

    def config_write(self, offset: int, data: bytes) -> None:
        self.endpoint.region_write(7, offset, data)

    def driver_node(self) -> Path:
        return Path("rig")

    @property
    def bus_master(self) -> bool:
        return bool(self.endpoint.region_read(7, 4, 1)[0] & 4)

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        self.endpoint.region_write(7, 4, bytes([6 if on else 2]))

    @property
    def msix_vectors(self) -> int:
        return self.endpoint.irq_count(Irq.MSIX)

    @property
    def interrupt_disable(self) -> bool:
        return bool(self.machine.function.config(4) & 1 << 10)

    @interrupt_disable.setter
    def interrupt_disable(self, on: bool) -> None:
        self.machine.function.set_disable(on)
        self.machine.go_on()

    @property
    def interrupt_status(self) -> bool:
        return self.machine.function.pending()

    def line_interrupts(self) -> int:
        return self.machine.line.count

    def set_bus_master(self, on: bool) -> None:
        self.bus_master = on

    def reset(self) -> None:
        self.endpoint.device_reset()
        place_bars(self.endpoint)
        if self.endpoint is self.machine.exerciser:
            self.machine.function.enable()

    def info(self) -> PciInfo:
        kind = self.machine.function.interrupts
        granted = min(self.machine.granted, self.msix_vectors)
        vectors = granted if kind is Interrupts.MSIX else 1
        return PciInfo(vectors, self.bus_master, kind)

    def set_eventfd(self, vector: int, fd: int) -> None:
        self.machine.function.set_eventfd(vector, fd, self)
        self.machine.go_on()

    def set_interrupts(self, kind: Interrupts) -> None:
        self.machine.function.choose(kind, self)

    def unmask(self) -> None:
        if self.machine.function.holders.get(0) is not self:
            raise IOBusyError("held")
        self.machine.function.unmask()
        self.machine.go_on()
