# SPDX-License-Identifier: Apache-2.0
"""The suite on sound devices is green; on each wrong one the right promise is broken."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace
from typing import Any

import pytest

from dma_rehearsal.device.endpoints.dma import DmaRefused
from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.exerciser.transfer import Moved, Transfer
from dma_rehearsal.device.faults import IMPLEMENTATIONS
from dma_rehearsal.device.layout import DmaDirection
from dma_rehearsal.device.layout.run_status import Status
from dma_rehearsal.device.pci.config import Command
from dma_rehearsal.guest.drivers.edu import EduReg
from dma_rehearsal.guest.faults import registry
from dma_rehearsal.guest.iobuffer import CacheMode
from dma_rehearsal.guest.iobuffer.descriptors import buffer, creation
from dma_rehearsal.guest.iobuffer.memory.carveout import CarveoutPool
from dma_rehearsal.guest.iobuffer.memory.heap import Heap
from dma_rehearsal.guest.iobuffer.os import virtual_memory
from dma_rehearsal.guest.iobuffer.os.driver import Interrupts, PageTableEntry
from dma_rehearsal.guest.iobuffer.os.virtual_memory import ANYWHERE, Mapping, MapPlacement
from dma_rehearsal.guest.testkit.host_witness import HostReport
from dma_rehearsal.host_harness.faults import find
from tests import kernel_faults
from tests.inprocess.rig.edu import EduModel
from tests.inprocess.rig.host import RigHost
from tests.inprocess.rig.kernel import KernelFunction
from tests.inprocess.rig.machine import Machine
from tests.inprocess.rig.suite_run import SuiteRunner
from tests.inprocess.rig.wrong import WritesOneMore, hasten, with_device
from tests.unit.device.platform.tables import PAGE, PWT

pytest_plugins = ["pytester"]


@pytest.fixture
def rig(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> SuiteRunner:
    return SuiteRunner(pytester, monkeypatch)


def test_sound_devices(rig: SuiteRunner) -> None:
    outcome = rig.run()
    ledger = outcome.ledger
    assert outcome.late == []
    assert ledger.failures == []
    assert ledger.passed > 150
    assert ledger.objections() == []


def test_seed_decides_the_data(rig: SuiteRunner) -> None:
    def checksum(seed: int) -> str:
        outcome = rig.run(Machine, "-k", "test_out_reaches_registers", seed=seed)
        (row,) = outcome.ledger.promises
        return row.attested

    assert checksum(1) == checksum(1) != checksum(2)


class WritesOneBefore(Exerciser):
    """Writes a byte before the range, past the protection unit: only the canary shows it."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        client = self.bus.client
        if transfer.writes_memory and client is not None:
            (memory,) = client.memory(transfer.address - 1, 1, write=True)
            memory[:] = b"\0"
        super().transfer(transfer, done)


class MovesThoughRefused(Exerciser):
    """Refuses a DMA, and moves its first 64 bytes."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            if isinstance(outcome, DmaRefused):
                self._move(transfer)
            done(direction, outcome)

        super().transfer(transfer, moved)

    def check(self, transfer: Transfer) -> Transfer:
        try:
            return super().check(transfer)
        except DmaRefused:
            self._move(transfer)
            raise

    def _move(self, transfer: Transfer) -> None:
        client, address = self.bus.client, transfer.address
        offset = transfer.offset % len(self.buffer)
        if client is None or address >= 1 << 32:
            return
        (memory,) = client.memory(address, 64, write=True)
        if transfer.writes_memory:
            memory[:] = self.buffer[offset : offset + 64].ljust(64, b"\0")
        else:
            self.buffer[offset : offset + 64] = bytes(
                memory[: len(self.buffer[offset : offset + 64])]
            )


class IgnoresBusMastering(Exerciser):
    """Does DMA with bus mastering off."""

    def transfer(self, transfer: Transfer, done: Moved) -> None:
        command = self.config.read(4, 1)
        self.config.write(4, bytes([command[0] | 4]))

        def moved(direction: DmaDirection, outcome: bytes | DmaRefused) -> None:
            done(direction, outcome)
            self.config.write(4, command)

        super().transfer(transfer, moved)


class ForgetsNothing(Exerciser):
    """Is not reset by a reset."""

    def device_reset(self) -> None: ...


class WrongCache(Machine):
    """A driver that maps write-back whatever is asked, and write-combining for write-back."""

    def given_mode(self, mode: CacheMode) -> CacheMode:
        other = CacheMode.WRITE_COMBINE
        return other if mode is CacheMode.COPYBACK else CacheMode.COPYBACK


class TellsAnotherMode(Machine):
    """A driver whose entries are not those that the CPU uses."""

    def told(self, entry: PageTableEntry) -> PageTableEntry:
        return replace(entry, entry=entry.entry ^ PWT)


class TellsAnotherRoot(Machine):
    """A driver that tells the tables of another process."""

    def told(self, entry: PageTableEntry) -> PageTableEntry:
        return replace(entry, root=entry.root + 2 * PAGE)


class _SeesAnotherMode(RigHost):
    def says(self, report: HostReport) -> HostReport:
        runs = tuple(replace(run, pat_index=run.pat_index ^ 4) for run in report.runs)
        return replace(report, runs=runs)


class HostSeesAnotherMode(Machine):
    """A host whose walk ends with another PAT entry."""

    host = _SeesAnotherMode


class _TranslatesOtherwise(RigHost):
    def says(self, report: HostReport) -> HostReport:
        ((va, physical), *rest) = report.translations
        return replace(report, translations=((va, (physical or 0) + PAGE), *rest))


class QemuTranslatesOtherwise(Machine):
    """A QEMU that finds another page."""

    host = _TranslatesOtherwise


class Coerces(Machine):
    """Linux's habit: a conflicting second mapping succeeds."""

    def conflicts(self, physical: int, length: int, mode: CacheMode) -> bool:  # noqa: ARG002
        return False


class Scrambles(Machine):
    """Memory that is not contiguous: the first two pages of a mapping change places."""

    def map(
        self, physical: int, length: int, mode: CacheMode, placement: MapPlacement = ANYWHERE
    ) -> Mapping:
        mapping = super().map(physical, length, mode, placement)
        if length >= 2 * PAGE:
            flags = mmap.MAP_SHARED | 0x10  # MAP_FIXED
            for index in range(2):
                virtual_memory._mmap(
                    *(ctypes.c_void_p(mapping.address + index * PAGE), PAGE),
                    *(mmap.PROT_READ | mmap.PROT_WRITE, flags, self.fd),
                    physical + (1 - index) * PAGE,
                )
        return mapping


class Drops(Machine):
    def signal(self, vector: int) -> None: ...


class Doubles(Machine):
    def signal(self, vector: int) -> None:
        super().signal(vector)
        super().signal(vector)


class Misdirects(Machine):
    def signal(self, vector: int) -> None:
        super().signal((vector + 1) % 16)


class Spills(Machine):
    """A vector's interrupt reaches another one, too, which is not a neighbour."""

    def signal(self, vector: int) -> None:
        super().signal(vector)
        super().signal((vector + 5) % 16)


class GrantsLess(Machine):
    granted = 8


class NeverSaysAgain(KernelFunction):
    """Unmasks a line that is still up in silence."""

    def unmask(self) -> None:
        if not self.pending():
            super().unmask()


class SaysTwice(KernelFunction):
    def handle(self) -> None:
        super().handle()
        self.machine.signal(0)


class NeverMasks(KernelFunction):
    """The handler of a level interrupt leaves it as it is."""

    def handle(self) -> None:
        self.machine.signal(0)


class LeavesUnmasked(KernelFunction):
    """Takes the eventfd away and lets the line through, with nobody to own the interrupt."""

    def unmask(self) -> None:
        super().unmask()
        self.masked = False


class KeepsIntx(KernelFunction):
    """Does not go back to MSI-X."""

    def switch(self, kind: Interrupts) -> None:
        if kind is Interrupts.INTX:
            super().switch(kind)


class LetsOthersIn(KernelFunction):
    """Forgets whose the interrupts are."""

    def choose(self, kind: Interrupts, file: object) -> None:
        self.chooser = file
        super().choose(kind, file)


class GivesVectorsAway(KernelFunction):
    """Forgets whose eventfd a vector has."""

    def set_eventfd(self, vector: int, fd: int, file: object) -> None:
        self.holders.pop(vector, None)
        super().set_eventfd(vector, fd, file)


class Edge(Exerciser):
    """The line goes down by itself once it was signalled."""

    def send_intx(self) -> bool:
        self.interrupts.intx.level = False
        return super().send_intx()


class HidesStatus(Exerciser):
    """Interrupt Status shows only what Interrupt Disable lets through."""

    def intx_status(self) -> bool:
        return super().intx_status() and not self.config.command & Command.INTX_DISABLE


class IgnoresDisable(Exerciser):
    """Asserts the line whatever Interrupt Disable says."""

    def intx(self, level: bool) -> None:
        super().intx(level)
        if level:
            self.send_intx()


class Gateless(KernelFunction):
    """A bus that hands on what a function sends, as QEMU does not."""

    def lets_through(self) -> bool:
        return self.interrupts is Interrupts.INTX and not self.masked


class OtherPlace(EduModel):
    """Moves what lies a page further."""

    def transfer(self, command: int) -> None:
        self.registers[EduReg.DMA_SOURCE] += PAGE * (self[EduReg.DMA_SOURCE] > PAGE * 256)
        super().transfer(command)


class Idle(EduModel):
    """Says that it moved the bytes."""

    def transfer(self, command: int) -> None: ...


class Silent(EduModel):
    """Does not interrupt."""

    def signal(self) -> None: ...


def with_edu(kind: type[EduModel]) -> type[Machine]:
    return type(kind.__name__, (Machine,), {"edu": kind})


def with_fault(name: str) -> type[Machine]:
    return type(name, (Machine,), {"fault": IMPLEMENTATIONS[name]})


def with_kernel(kind: type[KernelFunction], device: type[Exerciser] = Exerciser) -> type[Machine]:
    return type(kind.__name__, (with_device(device),), {"kernel": kind})


def _here(name: str) -> bool:
    """Whether a fault acts in this process; one that takes the verdict needs a host of its own."""
    fault = find(name)
    return name not in kernel_faults.WITNESS and not fault.options and fault.status is Status.FAILED


@pytest.mark.fires("name", neighbour="test_sound_devices")
@pytest.mark.parametrize("name", sorted(filter(_here, IMPLEMENTATIONS)))
def test_named_fault_of_the_device(
    rig: SuiteRunner, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hasten(monkeypatch)
    chosen = {
        "witness": "WriteThru",
        "msix": "msix_reaches or function_mask",
        "intx": "intx",
        "constraints": "test_constraints or max_segments",
        "mask": "test_constraints",
        "address": "test_constraints",
        "boundary": "test_constraints",
        "held": "test_held",
        "hold": "test_board_hold",
        "mail": "test_mailbox",
        "board": "test_mailbox",
        "ring": "test_ring",
        "atc": "translation",
        "trace-of-words": "arrive",
        "trace-refusals-lost": "test_protection",
        "platform": "test_protection",
        "own": "own_bar",
        "protection": "test_protection or other_direction",
        "peer": "test_peers",
        "message": "by_message",
        "cache": find(name).tests[0].removesuffix(".py"),
        "device-capability-hidden": "test_device",
    }
    prefix = name.partition("-")[0]
    selected = chosen.get(name) or chosen.get(prefix, "(test_direction and 65) or second_opinion")
    fault = find(name)
    rows = rig.run(with_fault(name), "-k", selected).ledger.promises
    assert {row.promise for row in rows if row.verdict == fault.verdict} >= set(fault.promises)


@pytest.mark.fires("promises", neighbour="test_sound_devices")
@pytest.mark.parametrize(
    ("machine", "selected", "promises"),
    [
        (with_device(WritesOneMore), "canaries", {"capacity"}),
        (with_device(WritesOneBefore), "canaries", {"capacity"}),
        (with_device(MovesThoughRefused), "bus_master", {"bus mastering"}),
        (with_device(MovesThoughRefused), "past", {"DMA range"}),
        (with_device(IgnoresBusMastering), "bus_master", {"bus mastering"}),
        (with_device(ForgetsNothing), "reset", {"FLR"}),
        (
            WrongCache,
            "witnessed and 4096",
            {
                *("kIOMapDefaultCache", "kIOMapInhibitCache", "kIOMapWriteThruCache"),
                *("kIOMapCopybackCache", "kIOMapWriteCombineCache"),
            },
        ),
        (TellsAnotherMode, "agree and Inhibit", {"kIOMapInhibitCache"}),
        (HostSeesAnotherMode, "agree and Inhibit", {"kIOMapInhibitCache"}),
        (QemuTranslatesOtherwise, "agree and Inhibit", {"kIOMapInhibitCache"}),
        (TellsAnotherRoot, "agree and Inhibit", {"kIOMapInhibitCache"}),
        (Coerces, "conflicting and Inhibit", {"kIOMapInhibitCache"}),
        (
            Scrambles,
            "contiguous and 4097",
            {"kIOMemoryPhysicallyContiguous", "kIOMemoryHostPhysicallyContiguous"},
        ),
        (Doubles, "msix_reaches and 7", {"MSI-X"}),
        (Spills, "msix_reaches and 7", {"MSI-X"}),
        (GrantsLess, "every_vector", {"MSI-X"}),
        (GrantsLess, "msix_reaches and 8", {"MSI-X"}),
        (with_kernel(NeverSaysAgain), "a_level", {"INTx"}),
        (with_kernel(SaysTwice), "a_level", {"INTx"}),
        (with_kernel(NeverMasks), "a_level", {"INTx"}),
        (with_kernel(LeavesUnmasked), "a_level", {"INTx"}),
        (with_kernel(KeepsIntx), "goes_back", {"INTx"}),
        (with_kernel(KeepsIntx), "works_again", {"MSI-X"}),
        (with_kernel(LetsOthersIn), "goes_back", {"INTx"}),
        (with_kernel(GivesVectorsAway), "takes_no_vector", {"MSI-X"}),
        (with_edu(OtherPlace), "second_opinion and 1001", {"second opinion"}),
        (with_edu(Idle), "second_opinion and 4096", {"second opinion"}),
        (with_edu(Silent), "second_opinion and interrupts", {"second opinion"}),
        (with_fault("intx-doubled"), "a_level", {"INTx"}),
        (with_fault("intx-misdirected"), "silent", {"INTx"}),
        (with_fault("intx-storm"), "no_storm", {"INTx"}),
        (with_device(Edge), "a_level", {"INTx"}),
        (with_device(HidesStatus), "interrupt_disable", {"INTx"}),
        (with_kernel(Gateless, IgnoresDisable), "interrupt_disable", {"INTx"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wrong_machine(
    rig: SuiteRunner,
    monkeypatch: pytest.MonkeyPatch,
    machine: type[Machine],
    selected: str,
    promises: set[str],
) -> None:
    hasten(monkeypatch)
    outcome = rig.run(machine, "-k", selected)
    assert outcome.broken == promises
    assert outcome.ledger.failed > 0


@pytest.mark.parametrize("machine", [Drops, Misdirects])
def test_lost_interrupt(
    rig: SuiteRunner, monkeypatch: pytest.MonkeyPatch, machine: type[Machine]
) -> None:
    hasten(monkeypatch)
    assert rig.run(machine, "-k", "msix_reaches and 7").broken == {"MSI-X"}


@pytest.mark.fires("promise", neighbour="test_sound_devices")
@pytest.mark.parametrize(
    ("name", "selected", "promise"),
    [
        ("allocator-misaligned", "test_alignment", "alignment"),
        ("allocator-overlap", "canaries or share_no_byte", "capacity"),
    ],
)
def test_fault_of_the_allocator(
    rig: SuiteRunner, monkeypatch: pytest.MonkeyPatch, name: str, selected: str, promise: str
) -> None:
    for method in ("allocate", "release", "release_late"):
        monkeypatch.setattr(Heap, method, getattr(Heap, method))
    registry.patch(name)
    outcome = rig.run(Machine, "-k", selected)
    assert outcome.broken == {promise}


def _leaks(pool: CarveoutPool, extent: Any) -> None: ...


@pytest.mark.fires("promise", neighbour="test_sound_devices")
@pytest.mark.parametrize(
    ("target", "name", "value", "selected", "promise"),
    [
        (Mapping, "zero", lambda *_: None, "zeroed", "release"),
        (CarveoutPool, "free", _leaks, "test_release", "release"),
        (creation, "_UNSUPPORTED", (), "says_so and UseReserve", "kIOMemoryUseReserve"),
        (buffer, "check_values", lambda *_: None, "refused_with_a_code", "alignment"),
    ],
    ids=["not zeroed", "leaks", "ignored in silence", "nothing checked"],
)
def test_wrong_front_end(
    rig: SuiteRunner,
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    value: object,
    selected: str,
    promise: str,
) -> None:
    monkeypatch.setattr(target, name, value)
    assert promise in rig.run(Machine, "-k", selected).broken
