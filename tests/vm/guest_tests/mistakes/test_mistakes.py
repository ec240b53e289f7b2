# SPDX-License-Identifier: Apache-2.0
"""Drivers of the exerciser: a mistake each, and the same driver mended."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import DmaReason, Ext, RingDescriptor, RingFlag, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing, constrained
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
)
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer


def receive(bench: DmaChecker, memory: IOBufferMemoryDescriptor) -> None:
    bench.device.dma(memory.getPhysicalAddress(), 64, write_memory=True)


def test_denied_buggy(bench: DmaChecker, buffer: MakeBuffer) -> None:
    """The device writes to a buffer that is for sending, and the test looks at nothing."""
    receive(bench, buffer(kIODirectionOut, 4096))


def test_denied_mended(bench: DmaChecker, buffer: MakeBuffer) -> None:
    receive(bench, buffer(kIODirectionIn, 4096))


@pytest.mark.promise("kIODirectionIn")
def test_attested_though_denied_buggy(
    bench: DmaChecker, buffer: MakeBuffer, attest: Attest
) -> None:
    """All of its DMA was announced as refused, and yet it says that bytes moved."""
    with bench.device.expects(DmaReason.PROTECTION_DIRECTION):
        receive(bench, buffer(kIODirectionOut, 4096))
    attest("kIODirectionIn", asked="64 bytes", attested="done", kept=True)


@pytest.mark.promise("kIODirectionIn")
@pytest.mark.usefixtures("bench")
def test_attested_without_dma_buggy(buffer: MakeBuffer, attest: Attest) -> None:
    buffer(kIODirectionIn, 4096)
    attest("kIODirectionIn", asked="64 bytes, nothing done", attested="done", kept=True)


@pytest.mark.promise("kIODirectionIn")
def test_attested_mended(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    memory = buffer(kIODirectionIn, 4096)
    receive(bench, memory)
    attest.direction(memory)


def test_announced_and_not_denied_buggy(bench: DmaChecker, buffer: MakeBuffer) -> None:
    with bench.device.expects(DmaReason.PROTECTION_DIRECTION):
        receive(bench, buffer(kIODirectionIn, 4096))


def test_address_mask_buggy(bench: DmaChecker, buffer: MakeBuffer) -> None:
    """A device that drives 32 bits, and a driver that sets no mask."""
    with constrained(bench.device, {Ext.ADDRESS_BITS: 32}):
        receive(bench, buffer(kIODirectionIn, 4096, pool="high"))


def test_address_mask_mended(bench: DmaChecker, buffer: MakeBuffer) -> None:
    with constrained(bench.device, {Ext.ADDRESS_BITS: 32}):
        receive(bench, buffer(kIODirectionIn, 4096, pool="main"))


def send_by_ring(
    bench: DmaChecker, buffer: MakeBuffer, direction: IOOptions
) -> tuple[RingStatus, int]:
    memory, slots = buffer(direction, 64), buffer(kIODirectionInOut, 64)
    with (
        slots.view() as view,
        DescriptorRing(bench.device, view, slots.getPhysicalAddress(), 2) as ring,
    ):
        ring.put(0, RingDescriptor(memory.getPhysicalAddress(), 64, 0, RingFlag.WRITE_MEMORY))
        return ring.doorbell(1), ring.completion


def test_ring_buggy(bench: DmaChecker, buffer: MakeBuffer) -> None:
    """RING_STATUS and the completion index say that the transfer was refused."""
    assert send_by_ring(bench, buffer, kIODirectionOut) == (RingStatus.OK, 1)


def test_ring_that_nobody_asks_buggy(bench: DmaChecker, buffer: MakeBuffer) -> None:
    send_by_ring(bench, buffer, kIODirectionOut)


def test_ring_mended(bench: DmaChecker, buffer: MakeBuffer) -> None:
    assert send_by_ring(bench, buffer, kIODirectionIn) == (RingStatus.OK, 1)


def test_failed_attest_buggy(bench: DmaChecker, buffer: MakeBuffer, attest: Attest) -> None:
    """The report has the test's own line, and its text once."""
    memory = buffer(kIODirectionIn, 64)
    receive(bench, memory)
    attest("parity", asked="even", attested="odd", kept=False)
