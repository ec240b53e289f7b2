# SPDX-License-Identifier: Apache-2.0
"""Directions: the data moves the way that was asked for, at every size, whole and in odd pieces."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.guest.iobuffer import kIODirectionIn, kIODirectionInOut, kIODirectionOut
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Guarded, MakeBuffer, Patterns
from dma_rehearsal.guest.testkit.guarded import IN, OUT, check_untouched, edges, prepare

SIZES = (1, 2, 3, 63, 64, 65, 1024, 1025, 4095, 4096, 4097, 65536, 1024000, 1024001)
SEVERAL_DMAS = (1024000, 1024001)

sizes = pytest.mark.parametrize("size", SIZES)
large = pytest.mark.parametrize("size", SEVERAL_DMAS)


@pytest.mark.promise("kIODirectionOut")
@sizes
def test_out(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    size = bench.fits(size)
    memory = buffer(kIODirectionOut, size)
    bench.device_reads(memory, data.take(size))
    attest.direction(memory)


@pytest.mark.promise("kIODirectionIn")
@sizes
def test_in(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    size = bench.fits(size)
    memory = buffer(kIODirectionIn, size)
    bench.device_writes(memory, data.take(size))
    attest.direction(memory)


@pytest.mark.promise("kIODirectionInOut")
@sizes
def test_in_out(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    size = bench.fits(size)
    memory = buffer(kIODirectionInOut, size)
    bench.device_reads(memory, data.take(size))
    expected = data.take(size)
    bench.device_writes(memory, expected)
    bench.device_sees(memory, expected)
    attest.direction(memory)


@pytest.mark.promise("kIODirectionOut")
@large
def test_out_at_odd_split_points(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    size = bench.fits(size)
    memory = buffer(kIODirectionOut, size)
    parts = data.cut(size, bench.device.buffer_size)
    bench.device_reads(memory, data.take(size), parts)
    attest.direction(memory, asked=f"{size} bytes in odd pieces")


@pytest.mark.promise("kIODirectionIn")
@large
def test_in_at_odd_split_points(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, size: int
) -> None:
    size = bench.fits(size)
    memory = buffer(kIODirectionIn, size)
    parts = data.cut(size, bench.device.buffer_size)
    bench.device_writes(memory, data.take(size), parts)
    attest.direction(memory, asked=f"{size} bytes in odd pieces")


@pytest.mark.promise("kIODirectionOut")
def test_out_reaches_registers(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The CPU finds the bytes that the device read in its data buffer, BAR1, without any DMA."""
    memory = buffer(kIODirectionOut, 64)
    expected = data.take(64)
    seen = bench.device_reads(memory, expected)
    found = bytes(bench.device.buffer[index] for index in range(64))
    attest(
        "kIODirectionOut",
        asked="64 bytes, looked at through BAR1",
        attested=str(seen),
        kept=found == expected,
        reason=f"BAR1 holds {found.hex(' ')}, expected {expected.hex(' ')}",
    )


@pytest.mark.unlimited("alignment", "segments")
@pytest.mark.parametrize("size", [1, 63, 64, 65, 4096, 4097])
@pytest.mark.parametrize(
    ("direction", "name"),
    [
        pytest.param(*case, marks=pytest.mark.promise(case[1]), id=case[1].split()[0])
        for case in ((OUT, "kIODirectionOut denial"), (IN, "kIODirectionIn denial"))
    ],
)
def test_other_direction(
    guarded: Guarded,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    direction: IODirection,
    name: str,
    size: int,
) -> None:
    """Byte by byte in the first and in the last line, then the whole; the right way goes on."""
    bench, memory = guarded.bench, buffer(direction, size)
    address, write = memory.getPhysicalAddress(), direction is OUT
    grant = guarded.grant(address, size, direction)
    inside = data.take(size)
    wrong_way = DmaReason.PROTECTION_DIRECTION
    with memory.view() as view:
        in_device = prepare(bench, view, inside)
        tries = [(place, 1, place) for places in edges(address, size) for place in places]
        tries.append((address, size, address))
        fault = guarded.denied_each(tries, write=write, reason=wrong_way, nearest=grant)
        check_untouched(bench, view, inside, in_device)
    right = bench.device_sees(memory, inside) if write else bench.device_writes(memory, in_device)
    attest(
        name,
        asked=f"{size} bytes, device {'writes' if write else 'reads'} in the first and last line",
        attested=f"fault {fault.sequence}: {fault.reason.name}; the other way: {right}",
        kept=True,
        evidence="refusal",
    )
