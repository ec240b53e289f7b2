"""The checksum engine sums up what the CPU stored, and refuses what it must."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from checksum import ChecksumEngine, Result
from iobuffer import kIODirectionOut
from layout import DmaReason
from suite.attestation import Attest
from suite.bench import MakeBuffer
from suite.patterns import Patterns


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
    attest(
        "kIODirectionOut",
        asked=f"{length} bytes",
        attested=f"{result.name}, CRC {crc:08x}",
        kept=result is Result.DONE and crc == zlib.crc32(content),
    )


@pytest.mark.promise("DMA range")
@pytest.mark.parametrize(
    ("address", "length", "due"),
    [
        (0x8000_0000, 8, (Result.REFUSED, DmaReason.UNMAPPED, 0)),
        ((1 << 64) - 4, 8, (Result.REFUSED, DmaReason.ADDRESS_WRAP, 0)),
        (0, 0xFFFF_FFFF, (Result.TOO_LONG, 0, 0)),
    ],
)
def test_refused(
    engine: ChecksumEngine,
    attest: Attest,
    address: int,
    length: int,
    due: tuple[Result, int, int],
) -> None:
    seen = engine.sum(address, length)
    attest(
        "DMA range",
        asked=f"{length} bytes at {address:#x}",
        attested=f"{seen[0].name}, {DmaReason(seen[1]).name}",
        kept=seen == due,
    )


@pytest.mark.promise("bus mastering")
def test_bus_mastering_off(engine: ChecksumEngine, buffer: MakeBuffer, attest: Attest) -> None:
    engine.driver.set_bus_master(False)
    try:
        seen = engine.sum(buffer(kIODirectionOut, 64).getPhysicalAddress(), 64)
    finally:
        engine.driver.set_bus_master(True)
    attest(
        "bus mastering",
        asked="off: nothing is read",
        attested=f"{seen[0].name}, {DmaReason(seen[1]).name}",
        kept=seen == (Result.REFUSED, DmaReason.BUS_MASTER_OFF, 0),
    )
