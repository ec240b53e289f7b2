# SPDX-License-Identifier: Apache-2.0
"""Descriptor rings of the exerciser in tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dma_rehearsal.device.layout import RingDescriptor, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.iobuffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.testkit.attestation import CheckFailed, is_verdict
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker

__tracebackhide__ = is_verdict

DESCRIPTOR: Final = RingDescriptor.STRUCT.size  # bytes


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
