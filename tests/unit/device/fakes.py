# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what is on the other side of a device."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator

from dma_rehearsal.device.endpoints.endpoint import Endpoint
from dma_rehearsal.device.layout import DmaCtl, Ext, Reg
from dma_rehearsal.device.pci.config import Command
from dma_rehearsal.device.pci.msix import ENABLE, MsiX
from dma_rehearsal.device.vfio_user.errors import MemoryFault, ReadOnly, Unmapped
from dma_rehearsal.device.vfio_user.model import Ask, FileRange, MappedRange

BASE, SIZE = 0x10_0000, 0x4_0000
READ_ONLY_BASE = 0x20_0000


class Answers:
    """A client that is asked by messages, and answers when the test says so, as a real one does."""

    message_max = 1 << 16

    def __init__(self) -> None:
        self.messages: list[Ask] = []
        self._answered: Callable[[bytes | MemoryFault], None] | None = None

    def ask(self, ask: Ask, answered: Callable[[bytes | MemoryFault], None]) -> None:
        assert self._answered is None, "one message at a time"
        self.messages.append(ask)
        self._answered = answered

    def answer(self, answer: bytes | MemoryFault = b"") -> Ask:
        """Answer the message that is owed, and return it."""
        assert self._answered is not None, "nothing is owed"
        answered, self._answered = self._answered, None
        ask = self.messages.pop()
        answered(answer)
        return ask


class WholeMemory(Answers):
    """A client whose memory is all mapped."""

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        raise NotImplementedError

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        raise NotImplementedError

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        del address, write
        return None  # so the tests with it look each range up

    def ranges(self) -> Iterator[tuple[int, int]]:
        return iter(())


class FakeClient(WholeMemory):
    """256 KiB of memory at BASE, a read-only page at READ_ONLY_BASE, and a list of interrupts."""

    def __init__(self) -> None:
        super().__init__()
        self.ram = bytearray(SIZE)
        self.rom = bytearray(b"rom!" * 1024)
        self.interrupts: list[tuple[int, int]] = []
        self.listens = True
        self.masked: set[tuple[int, int]] = set()
        self.reaches = True  # False: the files were cut

    def memory(self, address: int, length: int, *, write: bool) -> list[memoryview]:
        if address >= BASE and address + length <= BASE + SIZE:
            middle = length // 2
            view = memoryview(self.ram)[address - BASE :][:length]
            return [view[:middle], view[middle:]]
        if address >= READ_ONLY_BASE and address + length <= READ_ONLY_BASE + len(self.rom):
            if write:
                raise ReadOnly(address)
            return [memoryview(self.rom)[address - READ_ONLY_BASE :][:length]]
        raise Unmapped(address)

    def file_ranges(self, address: int, length: int, *, write: bool) -> list[FileRange]:
        self.memory(address, length, write=write)
        ram = BASE <= address < BASE + SIZE
        file, start, data = ("ram", BASE, self.ram) if ram else ("rom", READ_ONLY_BASE, self.rom)
        middle = length // 2
        return [
            FileRange(file, at - start, part, at, memoryview(data), lambda _: self.reaches)
            for at, part in ((address, middle), (address + middle, length - middle))
        ]

    def armed(self, index: int, subindex: int) -> bool:
        return self.listens and (index, subindex) not in self.masked

    def trigger(self, index: int, subindex: int) -> bool:
        if self.listens:
            self.interrupts.append((index, subindex))
        return self.listens


class MappedClient(FakeClient):
    """A client whose memory can be used whole, as QEMU's can."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped = mmap.mmap(-1, SIZE)

    def mapped_range(self, address: int, *, write: bool) -> MappedRange | None:
        del write
        inside = BASE <= address < BASE + SIZE
        return MappedRange(BASE, BASE + SIZE, self.mapped, 0) if inside else None


def answer(endpoint: Endpoint) -> None:
    """Let the BARs answer, as enabling a PCI device does, and change nothing else."""
    command = endpoint.region_read(7, 4, 1)[0]
    endpoint.region_write(7, 4, bytes([command | Command.MEMORY_SPACE]))


def start(endpoint: Endpoint) -> None:
    """Do what a driver does first: let the BARs answer, and the function do DMA and send MSI-X."""
    endpoint.region_write(7, 4, b"\x06\x00")
    msix = endpoint.config.start_of(MsiX)
    if msix is not None:
        endpoint.region_write(7, msix + 2, struct.pack("<H", ENABLE))


def write32(endpoint: Endpoint, bar: int, offset: int, value: int) -> None:
    endpoint.region_write(bar, offset, struct.pack("<I", value & 0xFFFF_FFFF))


def read32(endpoint: Endpoint, bar: int, offset: int) -> int:
    value: int = struct.unpack("<I", endpoint.region_read(bar, offset, 4))[0]
    return value


def dma(
    endpoint: Endpoint, address: int, length: int, *, write: bool, offset: int = 0, control: int = 0
) -> dict[str, int]:
    """Run a DMA through the registers and return its record as BAR3 shows it."""
    write32(endpoint, 0, Reg.DMA_BUS_ADDR_LO, address)
    write32(endpoint, 0, Reg.DMA_BUS_ADDR_HI, address >> 32)
    write32(endpoint, 0, Reg.DMA_LEN, length)
    write32(endpoint, 0, Reg.DMA_OFFSET, offset)
    trigger = DmaCtl.TRIGGER | (DmaCtl.WRITE_MEMORY if write else 0) | control
    write32(endpoint, 0, Reg.DMACTL, trigger)
    return record(endpoint, read32(endpoint, 3, Ext.DMA_COUNT))


def record(endpoint: Endpoint, sequence: int) -> dict[str, int]:
    """Return a record's registers by name, and DMASTATUS."""
    write32(endpoint, 3, Ext.RECORD_SELECT, sequence)
    names = [each for each in Ext if each.name.startswith("RECORD_") and each >= 0x40]
    found = {each.name.removeprefix("RECORD_").lower(): read32(endpoint, 3, each) for each in names}
    found["valid"] = read32(endpoint, 3, Ext.RECORD_VALID)
    found["dmastatus"] = read32(endpoint, 0, Reg.DMASTATUS)
    return found
