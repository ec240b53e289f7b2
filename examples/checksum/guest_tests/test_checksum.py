# SPDX-License-Identifier: Apache-2.0
"""The checksum engine sums up what the CPU stored, and nothing that it was not given."""

import zlib

import pytest
from checksum import SILENT, START, InterruptEngine, PolledEngine, Result

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
    IOBusyError,
    kIODirectionIn,
    kIODirectionOut,
    kIOMemoryPageable,
)


@pytest.fixture
def polled():
    with PolledEngine() as engine:
        yield engine


@pytest.mark.promise("kIODirectionOut")
@pytest.mark.parametrize("length", [1, 4096, 100_000])
def test_polled(polled, buffer, data, attest, length):
    memory, content = buffer(kIODirectionOut, length), data.take(length)
    memory.writeBytes(0, content)
    result, _, crc = polled.sum(memory.getPhysicalAddress(), length)
    assert (result, crc) == (Result.DONE, zlib.crc32(content))
    attest.direction(memory)


@pytest.fixture
def engine():
    with InterruptEngine() as engine:
        yield engine


@pytest.mark.promise("kIODirectionOut")
def test_interrupt(engine, buffer, data, attest):
    memory, content = buffer(kIODirectionOut, 4096), data.take(4096)
    memory.writeBytes(0, content)
    result, _, crc = engine.sum(memory.getPhysicalAddress(), 4096)
    assert (result, crc) == (Result.DONE, zlib.crc32(content))
    attest.direction(memory)


@pytest.mark.promise("kIODirectionOut")
def test_pageable_memory(polled, buffer, data, expects, attest):
    memory, content = buffer(kIODirectionOut | kIOMemoryPageable, 12288), data.take(12288)
    memory.writeBytes(0, content)

    memory.prepare()  # the pages stay, and the device may read them
    position = 0
    for address, length in memory.segments():
        result, _, crc = polled.sum(address, length)
        assert (result, crc) == (Result.DONE, zlib.crc32(content[position : position + length]))
        position += length
    attest.direction(memory)
    memory.complete()  # the pages may move, and the device may not reach them

    with expects(DmaReason.PROTECTION_OUTSIDE):
        result, _, _ = polled.sum(address, length)
    assert result == Result.REFUSED


def test_memory_of_a_job_is_not_released(polled, buffer):
    memory = buffer(kIODirectionOut, 64)
    polled.start(memory.getPhysicalAddress(), 64, START | SILENT)
    with pytest.raises(IOBusyError, match="the checksum engine reads"):
        memory.release()
    assert polled.outcome()[0] == Result.DONE


@pytest.mark.promise("kIODirectionIn denial")
def test_buffer_for_the_other_direction(polled, buffer, expects, attest):
    memory = buffer(kIODirectionIn, 64)  # the device may write it, and not read it
    with expects(DmaReason.PROTECTION_DIRECTION, count=1) as refused:
        result, reason, _ = polled.sum(memory.getPhysicalAddress(), 64)
    attest(
        "kIODirectionIn denial",
        asked="64 bytes, the device reads: refused",
        attested=f"{result.name}, {DmaReason(reason).name} at {refused[0].address:#x}",
        kept=(result, reason) == (Result.REFUSED, DmaReason.PROTECTION_DIRECTION),
        evidence="refusal",
    )


@pytest.mark.promise("DMA range")
def test_too_long(engine, attest):
    result, _, _ = engine.sum(0, 0xFFFF_FFFF)
    attest(
        "DMA range",
        asked="4 GiB: too long",
        attested=result.name,
        kept=result == Result.TOO_LONG,
        evidence="interrupt",
    )


@pytest.mark.promise("bus mastering")
def test_bus_mastering_off(polled, buffer, expects, attest):
    memory = buffer(kIODirectionOut, 64)
    polled.pci.bus_master = False
    with expects(DmaReason.BUS_MASTER_OFF):
        result, reason, _ = polled.sum(memory.getPhysicalAddress(), 64)
    attest(
        "bus mastering",
        asked="off: nothing is read",
        attested=f"{result.name}, {DmaReason(reason).name}",
        kept=(result, reason) == (Result.REFUSED, DmaReason.BUS_MASTER_OFF),
        evidence="refusal",
    )
