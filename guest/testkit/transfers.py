# SPDX-License-Identifier: Apache-2.0
"""Transfers of several segments: of DMA commands, and by the exerciser's descriptor ring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dma_rehearsal.device.layout import RingDescriptor, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.patterns import joined_crc32

__tracebackhide__ = is_verdict

DESCRIPTOR: Final = RingDescriptor.STRUCT.size  # bytes


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


@contextmanager
def open_ring(
    bench: DmaChecker, memory: IOBufferMemoryDescriptor, size: int, *, vector: int = 0
) -> Iterator[DescriptorRing]:
    """Open a ring of ``size`` descriptors in a buffer, within the ``with``."""
    address = memory.getPhysicalAddress()
    with (
        memory.view() as view,
        DescriptorRing(bench.device, view, address, size, vector=vector) as ring,
    ):
        yield ring


def run_ring(ring: DescriptorRing, tail: int, completion: int | None = None) -> None:
    """Ring the doorbell; the device must run all descriptors before ``tail``."""
    status, done = ring.doorbell(tail), ring.completion
    if status is not RingStatus.OK or done != (tail if completion is None else completion):
        raise CheckFailed(f"doorbell {tail}: {status.name}, completion index {done}")
