# SPDX-License-Identifier: Apache-2.0
"""The duties of the device itself: bus mastering, bounds, reset."""

from __future__ import annotations

import pytest

from dma_rehearsal.device.layout import DmaReason, DmaStatus, Reg
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
    inverted,
)
from dma_rehearsal.guest.testkit.config_space import MSIX, PCI_EXPRESS, POWER


@pytest.mark.promise("bus mastering")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
def test_bus_master_off_moves_nothing(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, write_memory: bool
) -> None:
    size = bench.one_dma(4096)
    memory = buffer(kIODirectionInOut, size, 4096)
    inside, outside = data.take(size), data.take(size)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    bench.device.bus_master = False
    try:
        record = bench.refused_dma(
            DmaReason.BUS_MASTER_OFF, memory.getPhysicalAddress(), size, write_memory=write_memory
        )
    finally:
        bench.device.bus_master = True
    with memory.view() as view:
        moved = difference(outside, bytes(view)) or difference(inside, bench.stored(size))
    seen = bench.device_reads(memory, outside)
    attest(
        "bus mastering",
        asked=f"off: no {'write' if write_memory else 'read'} of {size} bytes",
        attested=f"status {record.status}, {record.reason.name}, {record.moved} bytes; on: {seen}",
        kept=record.status is DmaStatus.INTERNAL
        and record.reason is DmaReason.BUS_MASTER_OFF
        and record.moved == 0
        and not moved,
        reason=moved or "status or reason is another",
        evidence="refusal",
    )


@pytest.mark.promise("DMA range")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("past", [1, 64, 1 << 31])
def test_dma_past_the_devices_buffer_moves_nothing(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    write_memory: bool,
    past: int,
) -> None:
    window = bench.device.buffer_size
    memory = buffer(kIODirectionInOut, window + 64)
    inside, outside = data.take(window), data.take(window + 64)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    length = 4096
    offset = window - length + past
    address = memory.getPhysicalAddress()
    record = bench.refused_dma(
        DmaReason.BUFFER_RANGE, address, length, write_memory=write_memory, offset=offset
    )
    with memory.view() as view:
        moved = difference(outside, bytes(view)) or difference(inside, bench.stored(window))
    attest(
        "DMA range",
        asked=f"{past} bytes past the end: refused",
        attested=f"status {record.status}, {record.reason.name}, {record.moved} bytes",
        kept=record.status is DmaStatus.RANGE
        and record.reason is DmaReason.BUFFER_RANGE
        and record.moved == 0
        and not moved,
        reason=moved or "status or reason is another",
        evidence="refusal",
    )


@pytest.mark.promise("DMA range")
def test_dma_up_to_the_end_of_the_devices_buffer(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    window = bench.device.buffer_size
    size = bench.fits(100)
    memory = buffer(kIODirectionInOut, size, 1024)
    inside = data.take(window)
    bench.load(inside)
    with memory.view() as view:
        view[:] = inverted(inside[-size:])
    record = bench.dma(memory.getPhysicalAddress(), size, write_memory=True, offset=window - size)
    with memory.view() as view:
        wrong = difference(inside[-size:], bytes(view))
    attest(
        "DMA range",
        asked=f"the last {size} bytes of the buffer",
        attested=f"{record.moved} bytes from offset {record.offset:#x}",
        kept=not wrong,
        reason=wrong,
    )


@pytest.mark.unprotected
@pytest.mark.promise("DMA range")
def test_dma_to_unmapped_address_moves_nothing(
    bench: DmaChecker, data: Patterns, attest: Attest
) -> None:
    """No RAM is there, neither at a hole nor past the end of the addresses."""
    inside = data.take(256)
    bench.load(inside)
    seen, wanted = [], []
    for address, reason in (
        (0x8000_0000, DmaReason.UNMAPPED),
        ((1 << 64) - 128, DmaReason.ADDRESS_WRAP),
    ):
        due = bench.limits.refusal((address, 256)) or reason
        for write_memory in (False, True):
            record = bench.refused_dma(due, address, 256, write_memory=write_memory)
            seen.append((record.status, record.reason, record.moved))
            wanted.append((DmaStatus.INTERNAL, due, 0))
    attest(
        "DMA range",
        asked="an unmapped address: refused",
        attested=", ".join(sorted({reason.name for _, reason, _ in seen})),
        kept=seen == wanted and bench.stored(256) == inside,
        reason=f"{seen}",
        evidence="refusal",
    )


@pytest.mark.promise("FLR")
def test_function_level_reset(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Registers, records and the data buffer start anew; DMA works again."""
    device = bench.device
    bench.load(data.take(4096))
    device.write_register(Reg.DMA_OFFSET, 64)
    device.write_register(Reg.DMACTL, 3 << 10)
    device.reset()
    device.bus_master = True
    registers = [device.read_register(reg) for reg in (Reg.DMA_OFFSET, Reg.DMACTL, Reg.DMA_LEN)]
    count = device.dma_count
    empty = bench.stored(4096) == bytes(4096)
    size = bench.fits(100)
    seen = bench.device_reads(buffer(kIODirectionInOut, size), data.take(size))
    attest(
        "FLR",
        asked="registers, records and buffer as after power-on",
        attested=f"registers {registers}, {count} DMAs; then {seen}",
        kept=registers == [0, 0, 0] and count == 0 and empty,
        reason=f"registers {registers}, {count} DMAs, buffer empty: {empty}",
    )


# PCI Code and ID Assignment 1.11, 2 and 3: what the exerciser of Arm's BSA has, and what PCI
# Express asks of every function.
CAPABILITIES = {"PCI Express": PCI_EXPRESS, "Power Management": POWER, "MSI-X": MSIX}
EXTENDED = {"Address Translation Service": 0x000F, "Page Request Interface": 0x0013}


@pytest.mark.promise("capabilities")
def test_every_capability_is_in_its_list(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """The lists as the guest walks them, after firmware and QEMU have changed them."""
    function = bench.device.pci
    places = {name: function.capability(each) for name, each in CAPABILITIES.items()}
    places |= {name: function.extended_capability(each) for name, each in EXTENDED.items()}
    missing = ", ".join(name for name, place in places.items() if not place)
    size = bench.fits(100)
    seen = bench.device_reads(buffer(kIODirectionInOut, size), data.take(size))
    attest(
        "capabilities",
        asked=", ".join(places),
        attested=f"at {', '.join(f'{place:#x}' for place in places.values())}; {seen}",
        kept=not missing,
        reason=f"not in the list: {missing}",
    )
