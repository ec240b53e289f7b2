"""A guest without a VM: the guest's own code on the device's own code, in one process.

Between them stand RAM (a sparse file in which an offset is a physical address) and what the kernel
module does: mappings, page tables, eventfds. The whole suite runs here within seconds, so each of
its checks can be seen to fire.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import boot_words
import edu
import exerciser
import memory_types
import platform_command
import platform_device
import pytest
from iobuffer import CacheMode, IOBusyError, pools, vm
from iobuffer.carveout import CarveoutPool, Zone
from iobuffer.driver import Interrupts, PageTableEntry, PciInfo
from iobuffer.heap_pool import HeapPool
from iobuffer.vm import ANYWHERE, Mapping, Placement
from pci_sysfs import PciFunction
from suite import fixtures
from suite.attestation import SettingsPlugin
from suite.host import Host, HostPlugin

from device.endpoints.base import Endpoint
from device.endpoints.exerciser import Exerciser
from device.endpoints.memory import Fabric
from device.faults import SOUND, Fault
from device.layout import PLATFORM_DEVICE_ID
from device.platform.platform import Platform
from device.profile import PLAIN, Profile
from device.switch import FaultSwitch
from device.trace import Trace
from device.vfio_user.errors import NoDescriptor, ReadOnly, Unmapped
from device.vfio_user.messages import Irq
from device.vfio_user.model import Dma, Place
from host_harness import launch
from host_harness.memory import CARVE_OUTS
from host_harness.payload import SOURCE
from host_harness.report import Ledger
from tests.device.fakes import WholeMemory
from tests.device.tables import PAGE, PAT_4K, PCD, PWT, TABLE, Tables
from tests.suite.edu import EduModel
from tests.suite.rig_host import RigHost

RAM = ((0, 0x2000_0000), (0x1_0000_0000, 0x1_2000_0000))
# IA32_PAT as Linux sets it, and the bits of an entry that select a type from it.
PAT = 0x0407_0506_0007_0106
MODE_BITS = {
    CacheMode.INHIBIT: PWT | PCD,
    CacheMode.WRITE_THRU: PWT | PCD | PAT_4K,
    CacheMode.COPYBACK: 0,
    CacheMode.WRITE_COMBINE: PWT,
}
MTRRS = memory_types.Mtrrs(def_type=0x806, ranges=(), fixed=(0,) * 11, physical_bits=40)


STORM = 1000  # interrupts
# Firmware: only QEMU reaches it, and a copy of its end lies in RAM.
ROM, ROM_END = 0xFFFC_0000, 0x1_0000_0000
RESET_VECTOR = b"\xea\x5b\xe0\x00\xf006/23/99\x00\xfc\x00"
RESET_VECTOR_IN_RAM = 0xF_FFF0
ROM_READS = 3  # register reads that such a DMA takes
BAR_SPACING = 0x100_0000


def place_bars(endpoint: Endpoint) -> None:
    """Do what firmware does, and what the kernel does after a reset; bus mastering stays off."""
    base = {"platform": 0xE000_0000, "peer": 0xC000_0000}.get(endpoint.name, 0xD000_0000)
    for bar in range(6):
        if endpoint.region_size(bar):
            address = base + bar * BAR_SPACING
            endpoint.region_write(7, 0x10 + 4 * bar, address.to_bytes(4, "little"))
    endpoint.region_write(7, 4, b"\x02\x00")


@dataclass
class Line:
    """QEMU's end of the INTx line: a signal that it has not seen yet, the level, the interrupts."""

    told: bool = False
    up: bool = False
    count: int = 0


class KernelFunction:
    """What the module's PCI driver keeps for the exerciser. Subclasses err."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.interrupts = Interrupts.MSIX
        self.chooser: object = None
        self.holders: dict[int, object] = {}
        self.masked = True

    def config(self, offset: int) -> int:
        return int.from_bytes(self.machine.exerciser.region_read(7, offset, 2), "little")

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


class Machine(WholeMemory):
    """RAM, both devices, and the driver's state. It is the devices' client. Subclasses err."""

    device: type[Exerciser] = Exerciser
    fault: Fault = SOUND  # put on when both devices are made
    profile: Profile = PLAIN
    announced: Profile | None = None  # when it is another
    granted = 32  # MSI-X vectors, or as many as the device has
    kernel: type[KernelFunction] = KernelFunction
    edu: type[EduModel] = EduModel
    host: type[RigHost] = RigHost

    def __init__(self, folder: Path) -> None:
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, RAM[-1][1])
        self._map = mmap.mmap(self.fd, RAM[-1][1])
        self.ram = memoryview(self._map)
        self.ram[RESET_VECTOR_IN_RAM:][:16] = RESET_VECTOR
        self.asked: list[Dma] = []
        self.patience = 0
        self.tables = Tables()
        self.mapped: dict[int, tuple[int, int, CacheMode]] = {}
        self.eventfds: dict[int, int] = {}
        self.line = Line()
        self.edus = [self.edu(self.ram), self.edu(self.ram, address_bits=40)]
        self.function = self.kernel(self)
        fabric = Fabric()
        self.exerciser: Endpoint = self.device(Trace(), profile=self.profile, fabric=fabric)
        self.peer = Exerciser(Trace(), profile=self.profile, fabric=fabric)
        self.peer.name = "peer"
        self.platform = Platform(Trace())
        self.exerciser.bus.interconnect = self.platform.interconnect
        FaultSwitch([self.exerciser], self.platform).put_on(self.fault)
        for endpoint in self.exerciser, self.peer, self.platform:
            endpoint.attach(self)
            place_bars(endpoint)
        driver: Any = Driver(self)
        self._pools = [
            CarveoutPool(Zone(c.name, c.base, c.size), driver, folder) for c in CARVE_OUTS
        ]
        pools.use(*map(HeapPool, self._pools))

    def close(self) -> None:
        """Take the pools out of use; close RAM and lock files."""
        self.edus.clear()
        pools.use()
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

    def start_dma(self, dma: Dma) -> None:
        """Take a DMA in the ROM as QEMU does: it is done some time later."""
        if ROM <= dma.address < ROM_END:
            self.asked.append(dma)
            self.patience = ROM_READS
        else:
            super().start_dma(dma)

    def cancel_dma(self) -> None:
        """Forget what was asked."""
        self.asked.clear()

    def answer(self) -> None:
        """Answer what the device asked for, if it is time."""
        self.patience -= 1
        if self.asked and self.patience <= 0:
            dma = self.asked.pop(0)
            rom = bytes(ROM_END - ROM - 16) + RESET_VECTOR
            dma.on_done(rom[dma.address - ROM :][: dma.length])

    def places(self, address: int, length: int, *, write: bool) -> list[Place]:
        """Give the devices RAM as one file."""
        self.memory(address, length, write=write)
        return [Place("ram", address, length, address, self.ram[:], lambda _: True)]

    def trigger(self, index: int, subindex: int) -> bool:
        """Deliver an MSI-X message; remember a rise of INTx until ``go_on``."""
        kind = self.function.interrupts
        if index == Irq.MSIX and kind is Interrupts.MSIX:
            self.signal(subindex)
        elif index == Irq.INTX and kind is Interrupts.INTX:
            self.line.told = True
            return True
        return False

    def bar_accessed(self) -> None:
        """Do what QEMU does then: the end of an INTx that it has seen."""
        if self.line.up:
            self.line.up = False
            self.exerciser.end_of_interrupt()

    def go_on(self) -> None:
        """Let QEMU see what it was told, and the guest's kernel handle it.

        That comes about when something waits, not after a posted write.
        """
        self.answer()
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
        self, physical: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
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
            if address in vm._live
        )

    def given_mode(self, mode: CacheMode) -> CacheMode:
        """What the page-table entries say in the end."""
        return mode

    def query(self, address: int) -> PageTableEntry:
        """Make the page tables of the mapping that holds ``address``."""
        for start, (physical, length, mode) in self.mapped.items():
            if start in vm._live and start <= address < start + length:
                self.tables = Tables()
                flags = TABLE | MODE_BITS[mode]
                for offset in range(0, length, PAGE):
                    self.tables.map(start + offset, physical + offset, flags)
                entry = physical + (address - start & -PAGE) | flags
                return self.told(
                    PageTableEntry(address, self.tables.root, entry, 1, self.tables.levels)
                )
        raise LookupError(hex(address))

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

    def map(
        self, physical: int, length: int, mode: CacheMode, placement: Placement = ANYWHERE
    ) -> Mapping:
        return self.machine.map(physical, length, mode, placement)

    def query(self, address: int) -> PageTableEntry:
        return self.machine.query(address)

    def read(self, physical: int, length: int, mode: CacheMode) -> bytes:  # noqa: ARG002
        return bytes(self.machine.ram[physical : physical + length])

    def write(self, physical: int, data: bytes, mode: CacheMode) -> None:  # noqa: ARG002
        self.machine.ram[physical : physical + len(data)] = data


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


@dataclass
class Outcome:
    """What a run of the suite came to."""

    ledger: Ledger = field(default_factory=Ledger)
    _marked: dict[str, list[str]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand each report to the host's ledger, as it would come over the channel."""
        self.ledger.add_report(report, self._marked[report.nodeid])

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the promises that the tests are marked with."""
        self._marked = {
            item.nodeid: [str(mark.args[0]) for mark in item.iter_markers("promise")]
            for item in items
        }

    @property
    def broken(self) -> set[str]:
        """The promises that were broken."""
        return {row.promise for row in self.ledger.promises if row.verdict == "broken"}


class Rig:
    """Runs the guest's suite on machines."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._patch = monkeypatch

    def run(self, kind: type[Machine] = Machine, *args: str, seed: int = 7) -> Outcome:
        """Run the suite, or what ``args`` select of it, on a machine of this kind."""
        machine = kind(self._pytester.path)
        wait = exerciser.Interrupt.wait

        def wait_on(interrupt: exerciser.Interrupt, timeout: float) -> int:
            machine.go_on()
            return wait(interrupt, timeout)

        try:
            with self._patch.context() as patch:
                patch.setattr(exerciser.Interrupt, "wait", wait_on)
                return self._run(machine, args, seed)
        finally:
            machine.close()

    def _run(self, machine: Machine, args: tuple[str, ...], seed: int) -> Outcome:
        def find(_vendor: int, device: int, index: int = 0) -> Function | EduModel:
            if device == edu.EDU_DEVICE_ID:
                return machine.edus[index]
            if device == PLATFORM_DEVICE_ID:
                return Function(machine, machine.platform)
            return Function(machine, machine.peer if index else machine.exerciser)

        for module in exerciser, platform_device, fixtures:
            self._patch.setattr(module, "PciFunction", SimpleNamespace(find=find))
        self._patch.setattr(
            exerciser, "DriverFunction", lambda _: Function(machine, machine.exerciser)
        )
        self._patch.setattr(edu, "DriverFunction", lambda _: machine.edus[0])
        self._patch.setattr(fixtures, "Driver", lambda: Driver(machine))
        self._patch.setattr(platform_command, "LOCKS", self._pytester.path)
        self._patch.setattr(memory_types, "read_pat", lambda: PAT)
        self._patch.setattr(memory_types, "read_mtrrs", lambda: MTRRS)
        words = self._pytester.path / "cmdline"
        words.write_text(" ".join(launch.device_words(machine.announced or machine.profile)))
        self._patch.setattr(boot_words, "CMDLINE", words)
        outcome = Outcome()
        guest = SOURCE / "guest"
        self._pytester.inline_run(
            *("-c", os.devnull, "--rootdir", str(guest), "--import-mode=importlib"),
            # The rest is not looked at here, and costs more than the tests do.
            *("-p", "no:terminal", "-p", "no:hypothesispytest", "--assert=plain"),
            *("-p", "no:cacheprovider", "--strict-markers", "-m", "not kernel"),
            *(str(guest / "suite"), *args),
            plugins=[
                *(fixtures, SettingsPlugin(seed), outcome),
                HostPlugin(cast("Host", machine.host(machine))),
            ],
        )
        return outcome
