# SPDX-License-Identifier: Apache-2.0
"""DMA in memory that the device does not share: QEMU is asked for it, and it takes its time.

The firmware's ROM is such memory. Its reset vector and date also lie in RAM, where the firmware
copied itself to; so the same bytes come on both ways.
"""

from __future__ import annotations

import zlib

import pytest

from dma_rehearsal.device.layout import DmaReason, RingDescriptor, RingStatus
from dma_rehearsal.guest.drivers.exerciser_features import DescriptorRing
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import Attest, DmaChecker, MakeBuffer, Patterns, difference

pytestmark = [pytest.mark.unprotected, pytest.mark.any_device]  # ROM is not prepared

LENGTH = 13
IN_ROM, IN_RAM = 0xFFFF_FFF0, 0xF_FFF0
FAR_JUMP = 0xEA  # what an x86 begins with


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.promise("DMA by message")
def test_read(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    seen = []
    for address in IN_ROM, IN_RAM:
        bench.load(data.take(LENGTH))
        record = bench.device.dma(address, LENGTH, write_memory=False)
        seen.append((record.ok, record.crc32, bench.stored(LENGTH)))
    (_, crc32, content), in_ram = seen
    attest(
        "DMA by message",
        asked=f"{LENGTH} bytes of ROM at {IN_ROM:#x}, as in RAM at {IN_RAM:#x}",
        attested=f"{content.hex()}, CRC {crc32:08x}",
        kept=seen[0] == in_ram == (True, zlib.crc32(content), content) and content[0] == FAR_JUMP,
        reason=difference(in_ram[2], content),
    )


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.promise("DMA by message")
def test_write_is_refused(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    bench.load(data.take(LENGTH))
    record = bench.refused_dma(DmaReason.READ_ONLY, IN_ROM, LENGTH, write_memory=True)
    attest(
        "DMA by message",
        asked=f"a write to ROM at {IN_ROM:#x}: refused",
        attested=f"{record.reason.name}, {record.moved} bytes moved",
        kept=(record.reason, record.moved, record.ok) == (DmaReason.READ_ONLY, 0, False),
        evidence="refusal",
    )


@pytest.mark.unlimited("addresses", "alignment")
@pytest.mark.promise("DMA by message")
def test_ring(bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest) -> None:
    """The ring waits for QEMU, too; later descriptors run in their turn."""
    bench.load(data.take(2 * LENGTH))
    memory = buffer(kIODirectionInOut, 16 * RingDescriptor.STRUCT.size)
    with (
        memory.view() as view,
        DescriptorRing(bench.device, view, memory.getPhysicalAddress(), 16) as ring,
    ):
        ring.put(0, RingDescriptor(IN_ROM, LENGTH, 0, 0))
        ring.put(1, RingDescriptor(IN_RAM, LENGTH, LENGTH, 0))
        status, done = ring.doorbell(2), ring.completion
    content = bench.stored(2 * LENGTH)
    attest(
        "DMA by message",
        asked="a ring of two: ROM, and its copy in RAM",
        attested=f"{status.name}, index {done}, {content[:LENGTH].hex()}",
        kept=(status, done) == (RingStatus.OK, 2)
        and content[:LENGTH] == content[LENGTH:]
        and content[0] == FAR_JUMP,
    )
