# SPDX-License-Identifier: Apache-2.0
"""IODMACommand on the device's own limits: memory that it may not reach gets to it all the same."""

from __future__ import annotations

import zlib

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IODMACommand,
    IOOptions,
    current_task,
    kIODirectionIn,
    kIODirectionOut,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.patterns import joined_crc32

PROMISE = "IODMACommand"


@pytest.mark.promise(PROMISE)
@pytest.mark.parametrize("pool", ["main", "high"])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "off by one"])
@pytest.mark.parametrize(
    "options", [kIODirectionOut, kIODirectionIn], ids=["device reads", "device writes"]
)
def test_every_limit_of_the_device_is_kept(
    bench: DmaChecker, data: Patterns, attest: Attest, pool: str, offset: int, options: IOOptions
) -> None:
    """The device's records say of each DMA that it was within its limits, and what it moved."""
    limits = bench.limits
    length = limits.rounded(3 * PAGE + 512)
    content, write = data.take(length), options == kIODirectionIn
    with (
        IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), options, 5 * PAGE, PAGE, pool=pool
        ) as memory,
        IODMACommand(limits.specification()) as command,
    ):
        memory.writeBytes(offset, inverted(content) if write else content)
        command.setMemoryDescriptor(memory, autoPrepare=False)
        bounced = dmas = total = position = 0
        for transfer in command.transfers(offset, length):
            bounced += command.bounced
            for address, size in transfer.segments:
                for part in limits.split(address, size, bench.device.buffer_size):
                    chunk = content[position : position + part]
                    bench.load(chunk if write else inverted(chunk))
                    record = bench.dma(address, part, write_memory=write)
                    if record.reason is not DmaReason.NONE:
                        raise CheckFailed(f"{part} bytes at {address:#x}: {record.reason.name}")
                    total = joined_crc32(total, record.crc32, part)
                    position, address, dmas = position + part, address + part, dmas + 1
        wrong = difference(content, memory.readBytes(offset, length))
    attest(
        PROMISE,
        asked=f"{pool}, offset {offset}, {length} bytes, {limits.address_bits} address bits",
        attested=f"{dmas} DMAs, {bounced} bytes bounced, CRC {total:08x}",
        kept=position == length and total == zlib.crc32(content) and not wrong,
        reason=wrong or f"the device moved {position} bytes",
    )
