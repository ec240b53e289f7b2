# SPDX-License-Identifier: Apache-2.0
"""The bench's checks fire: what a wrong device does is found, and the message says where."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaAttribute, DmaDirection, DmaReason, DmaStatus
from dma_rehearsal.guest.drivers.exerciser import DmaRecord
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor, current_task, kIODirectionInOut
from dma_rehearsal.guest.testkit.attestation import CheckFailed
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.patterns import Patterns

READ, WRITE = DmaDirection.READ_MEMORY, DmaDirection.WRITE_MEMORY


class ModelDevice:
    """Does DMA on a file as the exerciser does; subclasses do it wrong."""

    buffer_size = 4096

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.data = bytearray(self.buffer_size)
        self.status, self.reason = DmaStatus.OK, DmaReason.NONE
        self.records: list[DmaRecord] = []

    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        """Move the data; return the bytes that the record's checksum is of, and the direction."""
        if direction is WRITE:
            data = bytes(self.data[offset : offset + length])
            os.pwrite(self.memory, data, address)
        else:
            data = os.pread(self.memory, length, address)
            self.data[offset : offset + length] = data
        return data, direction

    def dma(
        self,
        address: int,
        length: int,
        *,
        write_memory: bool,
        offset: int = 0,
        no_snoop: bool = False,
    ) -> DmaRecord:
        assert not no_snoop
        data, direction = self.move(address, length, offset, WRITE if write_memory else READ)
        return DmaRecord(
            status=self.status,
            recorded_status=self.status,
            sequence=1,
            reason=self.reason,
            address=address,
            length=length,
            moved=length,
            direction=direction,
            attributes=DmaAttribute(0),
            offset=offset,
            crc32=zlib.crc32(data),
        )

    def start_dma(self, address: int, length: int, **asked: Any) -> None:
        self.records.append(self.dma(address, length, **asked))

    def end_dma(self, before: int) -> DmaRecord:
        return self.records[before]

    @property
    def dma_count(self) -> int:
        return len(self.records)

    @property
    def last_dma(self) -> tuple[int, int]:
        return len(self.records), self.records[-1].crc32


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


class FlipsRead(ModelDevice):
    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        data, direction = super().move(address, length, offset, direction)
        if direction is READ:
            data = flip(data)
            self.data[offset : offset + length] = data
        return data, direction


class FlipsSecondRead(FlipsRead):
    """The first one loads the device's buffer, the second is the one under test."""

    reads = 0

    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        self.reads += direction is READ
        if self.reads != 2:
            return ModelDevice.move(self, address, length, offset, direction)
        return super().move(address, length, offset, direction)


class FlipsWrite(ModelDevice):
    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        data, direction = super().move(address, length, offset, direction)
        if direction is WRITE:
            os.pwrite(self.memory, flip(data), address)
        return data, direction


class AlwaysReads(ModelDevice):
    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        data, _ = super().move(address, length, offset, READ)
        return data, direction


class MovesNothing(ModelDevice):
    def move(
        self,
        address: int,  # noqa: ARG002
        length: int,
        offset: int,
        direction: DmaDirection,
    ) -> tuple[bytes, DmaDirection]:
        return bytes(self.data[offset : offset + length]), direction


class AlsoWrites(ModelDevice):
    """A read that leaves a byte behind in memory."""

    def move(
        self, address: int, length: int, offset: int, direction: DmaDirection
    ) -> tuple[bytes, DmaDirection]:
        data, direction = super().move(address, length, offset, direction)
        if direction is READ:
            os.pwrite(self.memory, b"\0", address)
        return data, direction


class Elsewhere(ModelDevice):
    """Uses, and records, another address."""

    def dma(self, address: int, length: int, **asked: Any) -> DmaRecord:
        return super().dma(address + 64, length, **asked)


class SaysNo(ModelDevice):
    def dma(self, address: int, length: int, **asked: Any) -> DmaRecord:
        self.status, self.reason = DmaStatus.INTERNAL, DmaReason.UNMAPPED
        return super().dma(address, length, **asked)


def make(capacity: int) -> IOBufferMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithOptions(current_task(), kIODirectionInOut, capacity)


@contextmanager
def bench_with(device: ModelDevice) -> Iterator[DmaChecker]:
    model: Any = device
    absent: Any = None
    with make(device.buffer_size) as staging:
        yield DmaChecker(absent, absent, device=model, staging=staging)


@pytest.mark.parametrize("size", [1, 2, 63, 4096, 4097, 10001])
def test_sound_device_passes_both_ways(memory: int, size: int) -> None:
    data = Patterns(1, str(size))
    with bench_with(ModelDevice(memory)) as bench, make(size) as buffer:
        first, second = data.take(size), data.take(size)
        seen = bench.device_reads(buffer, first)
        assert (seen.length, seen.crc32) == (size, zlib.crc32(first))
        assert seen.dmas == -(-size // 4096)
        pieces = data.cut(size, 4096)
        seen = bench.device_writes(buffer, second, pieces)
        assert (seen.dmas, seen.crc32) == (len(pieces), zlib.crc32(second))
        assert seen.address == buffer.getPhysicalAddress()


Move = Callable[[DmaChecker, IOBufferMemoryDescriptor, bytes], object]


@pytest.mark.parametrize("size", [1, 2, 4097])
@pytest.mark.parametrize(
    ("broken", "move", "words"),
    [
        (FlipsRead, DmaChecker.device_reads, "the device's CRC"),
        (FlipsSecondRead, DmaChecker.device_reads, "the device's CRC"),
        (FlipsWrite, DmaChecker.device_writes, "the CPU finds other bytes"),
        (AlwaysReads, DmaChecker.device_writes, "the CPU finds other bytes"),
        (MovesNothing, DmaChecker.device_reads, "the device's CRC"),
        (MovesNothing, DmaChecker.device_writes, "the device's CRC"),
        (AlsoWrites, DmaChecker.device_reads, "a read changed memory"),
        (Elsewhere, DmaChecker.device_reads, "the device used"),
        (SaysNo, DmaChecker.device_writes, "reason UNMAPPED"),
    ],
)
def test_wrong_device_is_found(
    memory: int, size: int, broken: type[ModelDevice], move: Move, words: str
) -> None:
    with (
        bench_with(broken(memory)) as bench,
        make(size) as buffer,
        pytest.raises(CheckFailed, match=words),
    ):
        move(bench, buffer, Patterns(2, "wrong").take(size))


def test_message_names_place_length_direction_and_bytes(memory: int) -> None:
    data = Patterns(3, "message").take(5000)
    with bench_with(FlipsWrite(memory)) as bench, make(5000) as buffer:
        place = buffer.getPhysicalAddress()
        with pytest.raises(CheckFailed) as failure:
            bench.device_writes(buffer, data)
    said = str(failure.value)
    assert f"WRITE_MEMORY of 5000 bytes at {place:#x}" in said
    assert "2 of 5000 bytes differ, the first at offset 0x800" in said
    assert f"expected {data[0x800:0x808].hex(' ')}, seen {data[0x800] ^ 0xFF:02x} " in said


def test_message_of_a_wrong_read_shows_what_the_device_has(memory: int) -> None:
    data = Patterns(3, "message").take(100)
    with bench_with(FlipsSecondRead(memory)) as bench, make(100) as buffer:
        place = buffer.getPhysicalAddress()
        with pytest.raises(CheckFailed) as failure:
            bench.device_reads(buffer, data)
    said = str(failure.value)
    assert f"READ_MEMORY of 100 bytes at {place:#x} (offset 0x0 of 100)" in said
    assert "1 of 100 bytes differ, the first at offset 0x32" in said
