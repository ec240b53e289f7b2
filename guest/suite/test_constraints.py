"""Limits of a DMA engine: a DMA within them is done, one beyond is refused for that reason."""

from __future__ import annotations

import zlib

import pytest
from exerciser_parts import constrained
from iobuffer import kIODirectionInOut
from layout import DmaReason, Ext

from suite.attestation import Attest
from suite.bench import Bench, MakeBuffer
from suite.patterns import Patterns, difference, inverted

SIZE = 8192
# limit, its value, (offset, length) within and beyond it; the buffer is aligned to its size
LIMITS = [
    (Ext.ALIGNMENT, 256, (256, 100), (128, 100)),
    (Ext.ALIGNMENT, 4096, (4096, 1), (4095, 1)),
    (Ext.MAX_SEGMENT, 1024, (0, 1024), (0, 1025)),
    (Ext.BOUNDARY, 4096, (4000, 96), (4000, 97)),
    (Ext.BOUNDARY, 64, (64, 64), (63, 2)),
]


@pytest.mark.promise("constraints")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(
    ("limit", "value", "within", "beyond"),
    LIMITS,
    ids=[f"{limit.name}-{value}" for limit, value, _, _ in LIMITS],
)
def test_limit(
    bench: Bench,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    limit: Ext,
    value: int,
    within: tuple[int, int],
    beyond: tuple[int, int],
    write_memory: bool,
) -> None:
    memory, inside = buffer(kIODirectionInOut, SIZE, SIZE), data.take(SIZE)
    bench.load(inside)
    with memory.view() as view:
        view[:] = inverted(inside)
    base, seen, wrong = memory.getPhysicalAddress(), [], "all of it was done"
    with constrained(bench.device, {limit: value}):
        for offset, length in (beyond, within):
            record = bench.device.dma(base + offset, length, write_memory=write_memory)
            seen.append((record.reason, record.moved, record.ok))
            if not record.ok:
                with memory.view() as view:
                    wrong = difference(inverted(inside), bytes(view))
    wrong = wrong or (difference(inside, bench.stored(SIZE)) if write_memory else "")
    attest(
        "constraints",
        asked=f"{limit.name} {value}: offset, length {within}, not {beyond}",
        attested=", ".join(f"{reason.name}, {moved} bytes moved" for reason, moved, _ in seen),
        kept=seen == [(DmaReason[limit.name], 0, False), (DmaReason.NONE, within[1], True)]
        and not wrong,
        reason=wrong,
    )


@pytest.mark.promise("constraints")
@pytest.mark.parametrize("pool", ["low", "high"])
def test_address_bits(
    bench: Bench, buffer: MakeBuffer, data: Patterns, attest: Attest, pool: str
) -> None:
    """A device with as many address bits as the last byte needs, and with one less."""
    memory, content = buffer(kIODirectionInOut, 100, pool=pool), data.take(100)
    with memory.view() as view:
        view[:] = content
    address = memory.getPhysicalAddress()
    bits = (address + 99).bit_length()
    records = []
    for limit in bits, bits - 1:
        with constrained(bench.device, {Ext.ADDRESS_BITS: limit}):
            records.append(bench.device.dma(address, 100, write_memory=False))
    enough, less = records
    attest(
        "constraints",
        asked=f"{bits} address bits, and {bits - 1}",
        attested=f"{enough.reason.name} with CRC {enough.crc32:08x}; then {less.reason.name}",
        kept=enough.ok
        and enough.crc32 == zlib.crc32(content)
        and (less.reason, less.moved) == (DmaReason.ADDRESS_BITS, 0),
    )
