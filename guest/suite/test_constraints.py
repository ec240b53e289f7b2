# SPDX-License-Identifier: Apache-2.0
"""Limits of a DMA engine: a DMA within them is done, one beyond is refused for that reason.

The limits are set here, beside those that the device has of its own; see ``test_profile``.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest

from dma_rehearsal.device.layout import DmaReason, Ext
from dma_rehearsal.guest.drivers.device_limits import Limits
from dma_rehearsal.guest.drivers.exerciser_features import constrained
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
    inverted,
)

LIMITS = [
    *((Ext.ALIGNMENT, 256), (Ext.ALIGNMENT, 4096), (Ext.LENGTH_ALIGNMENT, 64)),
    *((Ext.MAX_SEGMENT, 1024), (Ext.MAX_TRANSFER, 1024)),
    *((Ext.BOUNDARY, 4096), (Ext.BOUNDARY, 64)),
]


def tightened(limits: Limits, limit: Ext, value: int) -> tuple[Limits, int]:
    """Return the limits with one that is tighter, and its value: near ``value``.

    Alignments are small and sizes large enough that the device's own do not forbid both sides.
    """
    value = max(value, 4 * limits.step)
    if limit is Ext.BOUNDARY:
        value = min(value, limits.boundary)
    elif limit in (Ext.MAX_SEGMENT, Ext.MAX_TRANSFER):
        value = min(value, limits.largest)
    named: dict[str, Any] = {limit.name.lower(): value}
    return replace(limits, **named), value


def sides(limit: Ext, value: int, step: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (offset, length) just within and just beyond a limit, by multiples of ``step``."""
    if limit is Ext.ALIGNMENT:
        return (value, step), (value - step, step)
    if limit is Ext.LENGTH_ALIGNMENT:
        return (0, value), (0, value - step)
    if limit is Ext.BOUNDARY:
        return (value - step, step), (value - step, 2 * step)
    return (0, value), (0, value + step)


@pytest.mark.promise("constraints")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(
    ("limit", "value"), LIMITS, ids=[f"{limit.name}-{value}" for limit, value in LIMITS]
)
def test_limit(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    limit: Ext,
    value: int,
    write_memory: bool,
) -> None:
    limits, value = tightened(bench.limits, limit, value)
    within, beyond = sides(limit, value, bench.limits.step)
    size = max(8192, 2 * value)
    memory, inside = buffer(kIODirectionInOut, size, size), data.take(bench.device.buffer_size)
    outside = inverted(data.take(size))
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    base, seen, wrong = memory.getPhysicalAddress(), [], "all of it was done"
    due = [limits.refusal((base + offset, length)) for offset, length in (beyond, within)]
    if due[0] is DmaReason.NONE or due[1] is not DmaReason.NONE:
        raise CheckFailed(f"{limit.name} {value} cannot be told from the device's own {limits}")
    with constrained(bench.device, {limit: value}):
        for reason, (offset, length) in zip(due, (beyond, within), strict=True):
            record = bench.refused_dma(reason, base + offset, length, write_memory=write_memory)
            seen.append((record.reason, record.moved, record.ok))
            if not record.ok:
                with memory.view() as view:
                    wrong = difference(outside, bytes(view))
    wrong = wrong or (difference(inside, bench.stored(len(inside))) if write_memory else "")
    attest(
        "constraints",
        asked=f"{limit.name} {value}: offset, length {within}, not {beyond}",
        attested=", ".join(f"{why.name}, {moved} bytes moved" for why, moved, _ in seen),
        kept=seen == [(due[0], 0, False), (DmaReason.NONE, within[1], True)] and not wrong,
        reason=wrong,
        evidence="refusal",
    )


@pytest.mark.promise("constraints")
@pytest.mark.parametrize("pool", ["low", "high"])
def test_address_bits(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, pool: str
) -> None:
    """A device with as many address bits as the last byte needs, and with one less.

    One that has less of its own reaches it in neither case.
    """
    size = bench.fits(100)
    memory, content = buffer(kIODirectionInOut, size, 1024, pool=pool), data.take(size)
    with memory.view() as view:
        view[:] = content
    address = memory.getPhysicalAddress()
    bits = (address + size - 1).bit_length()
    records = []
    for limit in bits, bits - 1:
        reaches = bits <= min(limit, bench.limits.address_bits)
        due = DmaReason.NONE if reaches else DmaReason.ADDRESS_BITS
        with constrained(bench.device, {Ext.ADDRESS_BITS: limit}):
            records.append(bench.refused_dma(due, address, size, write_memory=False))
    enough, less = records
    refused = DmaReason.ADDRESS_BITS, 0
    reached = enough.ok and enough.crc32 == zlib.crc32(content)
    if bits > bench.limits.address_bits:
        reached = (enough.reason, enough.moved) == refused
    attest(
        "constraints",
        asked=f"{bits} address bits, and {bits - 1}",
        attested=f"{enough.reason.name} with CRC {enough.crc32:08x}; then {less.reason.name}",
        kept=reached and (less.reason, less.moved) == refused,
        evidence="refusal",
    )
