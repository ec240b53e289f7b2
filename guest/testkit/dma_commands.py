# SPDX-License-Identifier: Apache-2.0
"""DMA by the segments of a DMA command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor, Segment
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.patterns import joined_crc32


@contextmanager
def prepared(memory: IOMemoryDescriptor) -> Iterator[IOMemoryDescriptor]:
    """Prepare memory within the ``with``."""
    memory.prepare()
    try:
        yield memory
    finally:
        memory.complete()


def move_segments(bench: DmaChecker, segments: list[Segment], *, write_memory: bool) -> int:
    """Have the device move the segments, one DMA each; return its CRC-32 over all of them."""
    position = total = 0
    for address, length in segments:
        record = bench.dma(address, length, write_memory=write_memory, offset=position)
        total = joined_crc32(total, record.crc32, length)
        position += length
    return total


def describe(command: IODMACommand, segments: list[Segment]) -> str:
    """Return a command's segments and bounced bytes, for a table."""
    return f"{len(segments)} segments, {command.bounced} bytes bounced"
