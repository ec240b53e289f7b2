# SPDX-License-Identifier: Apache-2.0
"""The checksum engine sums up what the CPU stored, and refuses what it must."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from checksum import ChecksumEngine, Result

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.iobuffer import kIODirectionOut
from dma_rehearsal.guest.testkit.attestation import Attest
from dma_rehearsal.guest.testkit.dma_checker import MakeBuffer
from dma_rehearsal.guest.testkit.patterns import Patterns


@pytest.fixture(scope="module")
def engine() -> Iterator[ChecksumEngine]:
    with ChecksumEngine() as opened:
        yield opened


@pytest.mark.promise("kIODirectionOut")
@pytest.mark.parametrize("length", [1, 4096, 100_000])
def test_sum_of_a_buffer(
    engine: ChecksumEngine, buffer: MakeBuffer, data: Patterns, attest: Attest, length: int
) -> None:
    memory, content = buffer(kIODirectionOut, length), data.take(length)
    with memory.view() as view:
        view[:] = content
    result, _, crc = engine.sum(memory.getPhysicalAddress(), length)
    assert (result, crc) == (Result.DONE, zlib.crc32(content))
    attest.direction(memory)


@pytest.mark.promise("DMA range")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (0x8000_0000, DmaReason.PROTECTION_OUTSIDE),  # nobody has granted it
        ((1 << 64) - 4, DmaReason.ADDRESS_WRAP),
    ],
)
def test_refused(
    engine: ChecksumEngine, expects: Announce, attest: Attest, address: int, reason: DmaReason
) -> None:
    """What is refused fails its test, unless the test expects it."""
    with expects(reason):
        seen = engine.sum(address, 8)
    attest(
        "DMA range",
        asked=f"8 bytes at {address:#x}: refused",
        attested=f"{seen[0].name}, {DmaReason(seen[1]).name}",
        kept=seen == (Result.REFUSED, reason, 0),
        evidence="refusal",
    )


@pytest.mark.promise("DMA range")
def test_too_long(engine: ChecksumEngine, attest: Attest) -> None:
    """The engine says so, and asks for no memory."""
    seen = engine.sum(0, 0xFFFF_FFFF)
    attest(
        "DMA range",
        asked="4 GiB: too long",
        attested=seen[0].name,
        kept=seen == (Result.TOO_LONG, 0, 0),
        evidence="interrupt",
    )


@pytest.mark.promise("bus mastering")
def test_bus_mastering_off(
    engine: ChecksumEngine, buffer: MakeBuffer, expects: Announce, attest: Attest
) -> None:
    engine.driver.set_bus_master(False)
    try:
        with expects(DmaReason.BUS_MASTER_OFF):
            seen = engine.sum(buffer(kIODirectionOut, 64).getPhysicalAddress(), 64)
    finally:
        engine.driver.set_bus_master(True)
    attest(
        "bus mastering",
        asked="off: nothing is read",
        attested=f"{seen[0].name}, {DmaReason(seen[1]).name}",
        kept=seen == (Result.REFUSED, DmaReason.BUS_MASTER_OFF, 0),
        evidence="refusal",
    )
