# SPDX-License-Identifier: Apache-2.0
"""Drivers of a device of one's own: a mistake each, and the same driver mended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapWriteCombineCache,
)
from dma_rehearsal.guest.iobuffer.os.driver import DriverFunction
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Guarded, MakeBuffer, NonCoherent

ADDRESS, LENGTH, START, FINISH, STATUS = 0x00, 0x08, 0x0C, 0x10, 0x14


class EngineDriver:
    """1234:f111, bound to the kernel module. A context manager."""

    def __init__(self) -> None:
        self.pci = PciFunction.find(0x1234, 0xF111)
        self.pci.bind()
        node = self.pci.driver_node()
        if node is None:
            raise PciError(f"{self.pci.address} has no device file")
        self.file = DriverFunction(node)
        self.file.set_bus_master(True)
        self.registers = self.pci.bar(0)

    def start(self, address: int, length: int) -> None:
        """Hand memory to the engine."""
        self.registers.set64(ADDRESS, address)
        self.registers[LENGTH] = length
        self.registers[START] = 1

    def finish(self) -> bool:
        """Let it fill the memory; return whether it says that it did."""
        self.registers[FINISH] = 1
        return self.registers[STATUS] == 1

    def fill(self, address: int, length: int) -> bool:
        """Have memory filled."""
        self.start(address, length)
        return self.finish()

    def __enter__(self) -> EngineDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.pci.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineDriver]:
    with EngineDriver() as opened:
        yield opened


def test_direction_buggy(engine: EngineDriver, buffer: MakeBuffer) -> None:
    """Received into a buffer that is for sending, and the status is not checked."""
    engine.fill(buffer(kIODirectionOut, 4096).getPhysicalAddress(), 64)


@pytest.mark.promise("kIODirectionIn")
def test_direction_mended(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    memory = buffer(kIODirectionIn, 4096)
    assert engine.fill(memory.getPhysicalAddress(), 64)
    attest.direction(memory)


def test_length_buggy(engine: EngineDriver, buffer: MakeBuffer) -> None:
    """One byte more than the buffer has."""
    engine.fill(buffer(kIODirectionIn, 100).getPhysicalAddress(), 101)


@pytest.mark.promise("alignment")
def test_length_mended(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    memory = buffer(kIODirectionIn, 100, 256)
    assert engine.fill(memory.getPhysicalAddress(), 100)
    attest.alignment(memory, 256)
    attest.contiguous(memory)


def test_release_buggy(engine: EngineDriver, buffer: MakeBuffer) -> None:
    """Released when the engine has not yet written; the next buffer takes the place."""
    early = buffer(kIODirectionIn, 64)
    engine.start(early.getPhysicalAddress(), 64)
    early.release()
    following = buffer(kIODirectionIn, 64)
    engine.finish()
    assert following.readBytes(0, 64) == bytes(64)


@pytest.mark.promise("release")
def test_release_mended(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    memory = buffer(kIODirectionIn, 64)
    engine.start(memory.getPhysicalAddress(), 64)
    assert engine.finish()
    memory.release()
    attest.released(memory)


@pytest.mark.promise("kIOMapWriteCombineCache")
def test_cache_buggy(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    """Asks for one mode and relies on another."""
    memory = buffer(kIODirectionIn, 4096)
    assert engine.fill(memory.getPhysicalAddress(), 64)
    attest.cache(memory, kIOMapWriteCombineCache.cache_mode)


@pytest.mark.promise("kIOMapWriteCombineCache")
def test_cache_mended(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    memory = buffer(kIODirectionIn | kIOMapWriteCombineCache, 4096)
    assert engine.fill(memory.getPhysicalAddress(), 64)
    attest.cache(memory)


@pytest.mark.promise("kIODirectionInOut")
def test_both_ways_buggy(engine: EngineDriver, buffer: MakeBuffer, attest: Attest) -> None:
    """It is said that bytes went both ways, and the engine only writes."""
    memory = buffer(kIODirectionInOut, 64)
    assert engine.fill(memory.getPhysicalAddress(), 64)
    attest.direction(memory)


def test_denied_on_purpose_mended(
    engine: EngineDriver, buffer: MakeBuffer, expects: Announce
) -> None:
    memory = buffer(kIODirectionOut, 64)
    with expects(DmaReason.PROTECTION_DIRECTION) as refused:
        assert not engine.fill(memory.getPhysicalAddress(), 64)
    assert refused[0].address == memory.getPhysicalAddress()


def test_dropped_buggy(engine: EngineDriver) -> None:
    """Nobody releases it."""
    memory = IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionIn, 640)
    assert engine.fill(memory.getPhysicalAddress(), 64)


def test_dropped_mended(engine: EngineDriver) -> None:
    with IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionIn, 640) as memory:
        assert engine.fill(memory.getPhysicalAddress(), 64)


def test_grants_of_ones_own_mended(
    guarded: Guarded, engine: EngineDriver, expects: Announce
) -> None:
    """The fixtures `guarded` and `bench` for another device."""
    board = guarded.board
    with board.make(kIODirectionIn, 4096, 4096) as memory:
        address = memory.getPhysicalAddress()
        with expects(DmaReason.PROTECTION_OUTSIDE):
            assert not engine.fill(address, 64)
        guarded.grant(address, 64, kIODirectionIn.direction)
        assert engine.fill(address, 64)
        assert board.witness(memory)[0].physical == address


def test_noncoherent_mended(noncoherent: NonCoherent, engine: EngineDriver) -> None:
    """A board whose devices do not snoop, with a device of one's own."""
    memory = noncoherent.buffer(kIODirectionIn, 4096)
    memory.sync_for_device()
    assert engine.fill(memory.getPhysicalAddress(), 64)
    memory.sync_for_cpu()


def test_exercisers_part_buggy(bench: DmaChecker) -> None:
    """Drives what is not there."""
    bench.load(b"1234")
