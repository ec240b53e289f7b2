# SPDX-License-Identifier: Apache-2.0
"""A hostile guest attacks the device, the other function, and the memory beside a buffer."""

from __future__ import annotations

import struct
from itertools import permutations

import pytest

from dma_rehearsal.device.layout import (
    MSICTL_TRIGGER,
    MSICTL_VECTOR,
    PLATFORM_MAGIC,
    DmaReason,
    DmaStatus,
    ExerciserBar,
    Plat,
    PlatformBar,
    Reg,
)
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.iobuffer import kIODirectionInOut
from dma_rehearsal.guest.testkit import (
    Attest,
    CheckFailed,
    DmaChecker,
    MakeBuffer,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.config_space import (
    COMMAND,
    DEVICE_CONTROL,
    PCI_EXPRESS,
    POWER,
    POWER_CONTROL,
    restored,
    word,
)
from dma_rehearsal.guest.testkit.interrupts import (
    counts_after_settling,
    differences,
    every_vector,
    settle_msix,
)

HOLE = 0x8000_0000  # above the RAM below 4 GiB
TOP = 1 << 64


@pytest.mark.promise("own BAR")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("bar", list(ExerciserBar), ids=lambda bar: bar.name)
def test_dma_to_the_devices_own_bar(
    bench: DmaChecker, data: Patterns, attest: Attest, bar: ExerciserBar, write_memory: bool
) -> None:
    """A DMA that would write the register that starts it, or the buffer that it reads."""
    device = bench.device
    inside = data.take(4096)
    bench.load(inside)
    base = device.pci.bar_address(bar)
    before = device.dma_count
    aims = [(base + at, length) for at, length in ((0, 64), (Reg.DMACTL, 4), (-8, 16), (0xFF8, 8))]
    due = [bench.limits.refusal(aim) or DmaReason.OWN_BAR for aim in aims]
    try:
        records = [
            bench.refused_dma(reason, *aim, write_memory=write_memory)
            for reason, aim in zip(due, aims, strict=True)
        ]
    except CheckFailed:
        device.reset()  # it may have written its own registers, which later tests must not see
        raise
    count = device.dma_count - before
    wrong = difference(inside, bench.stored(4096))
    reasons = [record.reason for record in records]
    attest(
        "own BAR",
        asked=f"BAR{bar.value} at {base:#x}: refused",
        attested=f"{', '.join(sorted({reason.name for reason in reasons}))}, {count} DMAs",
        kept=reasons == due
        and not any(record.moved for record in records)
        and count == len(records)
        and not wrong,
        reason=wrong,
        evidence="refusal",
    )


@pytest.mark.promise("other function")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("bar", list(PlatformBar), ids=lambda bar: bar.name)
def test_dma_to_the_other_functions_bar(
    bench: DmaChecker, data: Patterns, attest: Attest, bar: PlatformBar, write_memory: bool
) -> None:
    """Refused whole, for nothing grants it; both functions go on."""
    platform = bench.platform
    bench.load(data.take(4096))
    base = platform.pci.bar_address(bar)
    due = bench.limits.refusal((base, 12)) or DmaReason.PROTECTION_OUTSIDE
    record = bench.refused_dma(due, base, 12, write_memory=write_memory)
    refused = record.status is DmaStatus.INTERNAL and record.moved == 0
    magic = platform.pci.bar(PlatformBar.CONTROL)[Plat.MAGIC]
    attest(
        "other function",
        asked=f"the platform's BAR{bar.value} at {base:#x}",
        attested=f"{record.reason.name}, {record.moved} bytes; magic {magic:#x}",
        kept=refused and magic == PLATFORM_MAGIC,
        evidence="refusal",
    )


@pytest.mark.unprotected
@pytest.mark.promise("DMA range")
@pytest.mark.parametrize("write_memory", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(
    ("address", "length", "status", "reason"),
    [
        (None, 0, DmaStatus.OK, DmaReason.NONE),
        (None, 1, DmaStatus.OK, DmaReason.NONE),
        (None, 0xFFFF_FFFF, DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
        (HOLE, 1, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
        (HOLE - 4, 8, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
        (TOP - 1, 1, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
        (TOP - 1, 2, DmaStatus.INTERNAL, DmaReason.ADDRESS_WRAP),
        (TOP - 1, 0xFFFF_FFFF, DmaStatus.RANGE, DmaReason.BUFFER_RANGE),
        (TOP - 0x1_0000, 0x1_0000, DmaStatus.INTERNAL, DmaReason.UNMAPPED),
    ],
)
def test_lengths_and_addresses_at_the_edges(
    bench: DmaChecker,
    buffer: MakeBuffer,
    data: Patterns,
    attest: Attest,
    address: int | None,
    length: int,
    status: DmaStatus,
    reason: DmaReason,
    write_memory: bool,
) -> None:
    """None means the middle of a buffer. A refused DMA moves nothing.

    A device's limits come after the bounds of its buffer, and before what is on the bus.
    """
    memory = buffer(kIODirectionInOut, 192)
    inside, outside = data.take(192), data.take(192)
    bench.load(inside)
    with memory.view() as view:
        view[:] = outside
    target = memory.getPhysicalAddress() + 64 if address is None else address
    if length > bench.device.buffer_size:
        status, reason = DmaStatus.RANGE, DmaReason.BUFFER_RANGE
    elif own := bench.limits.refusal((target, length)):
        status, reason = DmaStatus.INTERNAL, own
    record = bench.refused_dma(reason, target, length, write_memory=write_memory)
    moved = length if status is DmaStatus.OK else 0
    into_memory, into_device = (moved, 0) if write_memory else (0, moved)
    expected = outside[:64] + inside[:into_memory] + outside[64 + into_memory :]
    stored = outside[64 : 64 + into_device] + inside[into_device:]
    with memory.view() as view:
        wrong = difference(expected, bytes(view)) or difference(stored, bench.stored(192))
    attest(
        "DMA range",
        asked=f"{length:#x} bytes at {target:#x}",
        attested=f"status {record.status}, {record.reason.name}, {record.moved} bytes",
        kept=(record.status, record.reason, record.moved) == (status, reason, moved) and not wrong,
        reason=wrong,
    )


@pytest.mark.promise("MSI-X")
def test_messages_of_vectors_that_do_not_exist(device: Exerciser, attest: Attest) -> None:
    """Also for vectors without a listener, and with bus mastering off: none comes late."""
    device.bus_master = False
    for vector in range(device.vectors):
        device.interrupt(vector)
    device.bus_master = True
    last = device.vectors - 1
    for vector in range(last):
        device.interrupt(vector)
    with device.eventfd(last) as fence:
        settle_msix(device, fence)  # they were sent, and went to nobody
    with every_vector(device) as vectors:
        for vector in range(len(vectors), MSICTL_VECTOR + 1, 37):
            device.interrupt(vector)
        device.write_register(Reg.MSICTL, MSICTL_TRIGGER | 0x7FFF_F800 | len(vectors))
        counts, due = counts_after_settling(device, vectors, {})
    wrong = differences(counts, due)
    attest(
        "MSI-X",
        asked="no message before its vector is there",
        attested=wrong or "none",
        kept=not wrong,
        reason=wrong,
        evidence="interrupt",
    )


@pytest.mark.promise("configuration space")
@pytest.mark.parametrize("chunk", range(4))
def test_configuration_writes_in_every_order(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, chunk: int
) -> None:
    """Decoding off, BARs sized, D3hot, Device Control: in any order, and the device is back."""
    function = bench.device.pci
    power = function.capability(POWER) + POWER_CONTROL
    control = function.capability(PCI_EXPRESS) + DEVICE_CONTROL
    writes = [
        (COMMAND, b"\0\0"),
        (0x14, b"\xff" * 4),
        (power, b"\x03\0"),
        (control, struct.pack("<H", word(function, control) ^ 1 << 11)),
    ]
    orders = list(permutations(writes))[chunk::4]
    memory = buffer(kIODirectionInOut, 4096)
    identity = function.config_read(0, 4)
    for order in orders:
        with restored(function):
            for offset, value in order:
                function.config_write(offset, value)
            same = function.config_read(0, 4) == identity
        seen = bench.device_reads(memory, data.take(4096))
        if not same:
            break
    attest(
        "configuration space",
        asked=f"{len(orders)} orders of {len(writes)} writes",
        attested=f"the same function each time; {seen}",
        kept=same,
        reason="the identity changed",
    )
