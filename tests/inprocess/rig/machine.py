# SPDX-License-Identifier: Apache-2.0
"""The machine of the rig: RAM (a sparse file in which an offset is a physical address) and devices.

It also does what the kernel module does: mappings, page tables, eventfds.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.endpoints.routing import Fabric
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.profile import PLAIN, Profile
from dma_rehearsal.device.faults import SOUND, DeviceFault
from dma_rehearsal.device.faults.injector import FaultInjector
from dma_rehearsal.device.platform.platform import Platform
from dma_rehearsal.device.vfio_user.errors import MemoryFault, NoDescriptor, ReadOnly, Unmapped
from dma_rehearsal.device.vfio_user.messages import Irq
from dma_rehearsal.device.vfio_user.model import Ask, FileRange
from dma_rehearsal.guest.iobuffer import CacheMode, IOBusyError
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap_pool import HeapPool
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.zones import Zone
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts, PageTableEntry
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement
from dma_rehearsal.host_harness.machine.guest_memory import CARVE_OUTS
from tests.inprocess.rig.edu import EduModel
from tests.inprocess.rig.host import RigHost
from tests.inprocess.rig.kernel import KernelFunction, Line
from tests.inprocess.rig.trace import KeptTrace
from tests.unit.device.fakes import WholeMemory
from tests.unit.device.platform.tables import PAGE, PAT_4K, PCD, PWT, TABLE, Tables

NEAR = 4 * PAGE  # from a mapping, others that one walk may look at as well
RAM = ((0, 0x2000_0000), (0x1_0000_0000, 0x1_2000_0000))
# The bits of an entry that select a type from IA32_PAT as Linux sets it.
MODE_BITS = {
    CacheMode.INHIBIT: PWT | PCD,
    CacheMode.WRITE_THRU: PWT | PCD | PAT_4K,
    CacheMode.COPYBACK: 0,
    CacheMode.WRITE_COMBINE: PWT,
}
STORM = 1000  # interrupts
# Firmware: only QEMU reaches it, and a copy of its end lies in RAM.
ROM, ROM_END = 0xFFFC_0000, 0x1_0000_0000
RESET_VECTOR = b"\xea\x5b\xe0\x00\xf006/23/99\x00\xfc\x00"
RESET_VECTOR_IN_RAM = 0xF_FFF0
ROM_READS = 3  # register reads that such a DMA takes
BAR_SPACING = 0x100_0000
SLOTS = 4 << 3, 6 << 3  # requester IDs of the exerciser and its peer


def place_bars(endpoint: Endpoint) -> None:
    """Do what firmware does, and what the kernel does after a reset; bus mastering stays off."""
    base = {"platform": 0xE000_0000, "peer": 0xC000_0000}.get(endpoint.name, 0xD000_0000)
    for bar in range(6):
        if endpoint.region_size(bar):
            address = base + bar * BAR_SPACING
            endpoint.region_write(7, 0x10 + 4 * bar, address.to_bytes(4, "little"))
    endpoint.region_write(7, 4, b"\x02\x00")


class Machine(WholeMemory):
    """RAM, both devices, and the driver's state. It is the devices' client. Subclasses err."""

    device: type[Exerciser] = Exerciser
    fault: DeviceFault = SOUND  # put on when both devices are made
    profile: Profile = PLAIN
    announced: Profile | None = None  # when it is another
    granted = 32  # MSI-X vectors, or as many as the device has
    kernel: type[KernelFunction] = KernelFunction
    edu: type[EduModel] = EduModel
    host: type[RigHost] = RigHost

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, RAM[-1][1])
        self._map = mmap.mmap(self.fd, RAM[-1][1])
        self.ram = memoryview(self._map)
        self.ram[RESET_VECTOR_IN_RAM:][:16] = RESET_VECTOR
        self.patience = 0
        self.tables = Tables()
        self.witnessed = False
        self.objections: list[str] = []
        self.mapped: dict[int, tuple[int, int, CacheMode]] = {}
        self.eventfds: dict[int, int] = {}
        self.line = Line()
        self.edus = [self.edu(self.ram), self.edu(self.ram, address_bits=40)]
        self.function = self.kernel(self)
        fabric = Fabric()
        trace = self.trace = KeptTrace()
        self.exerciser: Endpoint = self.device(trace, profile=self.profile, fabric=fabric)
        self.peer = Exerciser(trace, profile=self.profile, fabric=fabric)
        self.peer.name = "peer"
        self.exerciser.requester_id, self.peer.requester_id = SLOTS
        self.platform = Platform(trace)
        for function in self.exerciser, self.peer:
            function.bus.interconnect = self.platform.interconnect
        FaultInjector([self.exerciser], self.platform).apply(self.fault)
        for endpoint in self.exerciser, self.peer, self.platform:
            endpoint.attach(self)
            place_bars(endpoint)
        self.function.enable()
        driver: Any = Driver(self)
        self._pools = [
            CarveoutPool(Zone(c.name, c.base, c.size), driver, folder) for c in CARVE_OUTS
        ]
        dma_platform.use_pools(*map(HeapPool, self._pools))

    def close(self) -> None:
        """Take the pools out of use; close RAM and lock files."""
        self.edus.clear()
        dma_platform.use_pools()
        for pool in self._pools:
            pool.close()
        self.ram.release()
        self._map.close()
        os.close(self.fd)

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        """Give the devices RAM, and the page tables, which only the witness reads."""
        if not write and (page := self.tables._pages.get(address)) is not None:
            return [memoryview(page)[:length]]
        if any(start <= address and address + length <= end for start, end in RAM):
            return [self.ram[address : address + length]]
        if address >= ROM and address + length <= ROM_END:
            raise ReadOnly(address) if write else NoDescriptor(address)
        raise Unmapped(address)

    def ask(self, ask: Ask, answered: Callable[[bytes | MemoryFault], None]) -> None:
        """Take a message as QEMU does: it is answered some time later."""
        super().ask(ask, answered)
        self.patience = ROM_READS

    def let_go(self) -> None:
        """Do what the platform let go, as the threads of the other functions do."""
        for function in self.exerciser, self.peer:
            if function.dma_ready:
                function.go_on()

    def answer_in_time(self) -> None:
        """Answer what the device asked for, if it is time."""
        self.patience -= 1
        if self.messages and self.patience <= 0:
            (ask,) = self.messages
            rom = bytes(ROM_END - ROM - 16) + RESET_VECTOR
            self.answer(rom[ask.address - ROM :][: ask.length])

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        """Give the devices RAM as one file."""
        self.memory(address, length, write=write)
        return [FileRange("ram", address, length, address, self.ram[:], lambda _: True)]

    def trigger(self, index: int, subindex: int) -> bool:
        """Deliver an MSI-X message; remember a rise of INTx until ``go_on``."""
        if not self.armed(index, subindex):
            return False
        if index == Irq.MSIX:
            self.signal(subindex)
        else:
            self.line.told = True
        return True

    def armed(self, index: int, subindex: int) -> bool:
        """Whether the guest's kernel has a handler for it."""
        if self.function.interrupts is Interrupts.MSIX:
            return index == Irq.MSIX and subindex < self.granted
        return index == Irq.INTX

    def bar_accessed(self) -> None:
        """Do what QEMU does then: the end of an INTx that it has seen."""
        if self.line.up:
            self.line.up = False
            self.exerciser.end_of_interrupt()

    def go_on(self) -> None:
        """Let QEMU see what it was told, and the guest's kernel handle it.

        It happens when something waits, not after a posted write.
        """
        self.answer_in_time()
        if self.line.told:
            self.line.told, self.line.up = False, True
        # A handler that does not claim the interrupt gets it again at once: a storm.
        while self.line.up and self.function.lets_through() and self.line.count < STORM:
            self.line.count += 1
            self.function.handle()

    def signal(self, vector: int) -> None:
        """Deliver one interrupt."""
        if vector in self.eventfds:
            os.eventfd_write(self.eventfds[vector], 1)

    def map(
        self, physical: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> Mapping:
        """Map as the driver does: a range has one mode."""
        if self.conflicts(physical, length, mode):
            raise IOBusyError("mapped with another cache mode")
        mapping = Mapping(self.fd, length, physical, placement)
        self.mapped[mapping.address] = physical, length, self.given_mode(mode)
        return mapping

    def conflicts(self, physical: int, length: int, mode: CacheMode) -> bool:
        """Whether a live mapping of the range has another mode."""
        return any(
            start < physical + length and physical < start + size and other is not mode
            for address, (start, size, other) in self.mapped.items()
            if address in virtual_memory._live
        )

    def given_mode(self, mode: CacheMode) -> CacheMode:
        """Return the final page-table entries."""
        return mode

    def query(self, address: int) -> PageTableEntry:
        """Make the page tables of the mapping that holds ``address``, and of those near it."""
        for start, (physical, length, mode) in self.mapped.items():
            if start in virtual_memory._live and start <= address < start + length:
                self.tables = Tables()
                self._map_near(start, start + length)
                flags = TABLE | MODE_BITS[mode]
                entry = physical + (address - start & -PAGE) | flags
                return self.told(
                    PageTableEntry(address, self.tables.root, entry, 1, self.tables.levels)
                )
        raise LookupError(hex(address))

    def _map_near(self, low: int, high: int) -> None:
        for start, (physical, length, mode) in self.mapped.items():
            if (
                start in virtual_memory._live
                and start < high + NEAR
                and low < start + length + NEAR
            ):
                flags = TABLE | MODE_BITS[mode]
                for offset in range(0, length, PAGE):
                    self.tables.map(start + offset, physical + offset, flags)

    def told(self, entry: PageTableEntry) -> PageTableEntry:
        """Return what the driver tells of an entry."""
        return entry


@dataclass
class Driver:
    """/dev/dma-rehearsal of a machine."""

    machine: Machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def map(
        self, physical: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> Mapping:
        return self.machine.map(physical, length, mode, placement)

    def query(self, address: int) -> PageTableEntry:
        return self.machine.query(address)

    def read(self, physical: int, length: int, mode: CacheMode) -> bytes:  # noqa: ARG002
        return bytes(self.machine.ram[physical : physical + length])

    def write(self, physical: int, data: bytes, mode: CacheMode) -> None:  # noqa: ARG002
        self.machine.ram[physical : physical + len(data)] = data
