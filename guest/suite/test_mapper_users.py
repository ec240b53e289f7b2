# SPDX-License-Identifier: Apache-2.0
"""Users of buffers behind the IOMMU: commands, parts, other processes, cache maintenance."""

from __future__ import annotations

import zlib

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.page import PAGE
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IODMACommand,
    IOMultiMemoryDescriptor,
    IOOptions,
    IOSubMemoryDescriptor,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapWriteCombineCache,
    kIOMemoryPageable,
    task_of,
)
from dma_rehearsal.guest.iobuffer.dma.command import Specification
from dma_rehearsal.guest.testkit import (
    Attest,
    Denial,
    DmaChecker,
    MakeBuffer,
    NonCoherent,
    OtherProcess,
    Patterns,
    difference,
)
from dma_rehearsal.guest.testkit.noncoherent import make_owned_by_device, name_bytes
from dma_rehearsal.guest.testkit.other_process import owner_of_buffers
from dma_rehearsal.guest.testkit.transfers import describe, move_segments, prepared

SIZE = 16 * PAGE
MAPPER = "mapper"
DENIAL = "mapper denial"

pytestmark = [pytest.mark.iommu, pytest.mark.unlimited, pytest.mark.any_device]


@pytest.mark.promise(MAPPER)
def test_command_needs_no_bounce(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Memory above 4 GiB for 32 address bits: the bus addresses are below."""
    memory = buffer(kIODirectionOut, SIZE, pool="high", mask=0xFFFF_FFFF)
    content = data.take(SIZE)
    memory.writeBytes(0, content)
    with IODMACommand(Specification.of_device(address_bits=32)) as command:
        command.setMemoryDescriptor(memory)
        segments, _ = command.genIOVMSegments(0, 16)
        crc, seen = move_segments(bench, segments, write_memory=False), describe(command, segments)
        bounced = command.bounced
    physical = bench.witness(memory)[0].physical
    attest(
        MAPPER,
        asked=f"{SIZE} bytes at {physical:#x}, 32 address bits",
        attested=f"{seen}, CRC {crc:08x}",
        kept=crc == zlib.crc32(content)
        and not bounced
        and len(segments) == 1
        and physical >= 1 << 32,
        reason=f"segments {segments}",
    )


@pytest.mark.promise(MAPPER)
def test_several_buffers_as_one(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest
) -> None:
    """Each part has its own bus addresses; part of a pageable buffer is prepared with the whole."""
    carved = buffer(kIODirectionInOut, SIZE)
    pageable = buffer(kIODirectionInOut | kIOMemoryPageable, SIZE)
    with (
        IOSubMemoryDescriptor.withSubRange(pageable, 100, PAGE, kIODirectionInOut) as part,
        IOMultiMemoryDescriptor.withDescriptors([part, carved], kIODirectionInOut) as both,
        prepared(both),
    ):
        segments = both.segments()
        length = both.getLength()
        bench.device_reads(both, data.take(length))
        seen = bench.device_writes_by_page(both, data.take(length))
    attest(
        MAPPER,
        asked=f"{PAGE} bytes of a pageable buffer, then {SIZE} of the carve-out",
        attested=f"{seen}; {len(segments)} segments",
        kept=[size for _, size in segments] == [PAGE, SIZE],
        reason=f"segments {segments}",
    )


@pytest.mark.promise(MAPPER)
@pytest.mark.parametrize("kind", ["write-combined", "pageable"])
def test_buffer_of_another_process(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, attest: Attest, kind: str
) -> None:
    """It is mapped there and not here, and for the device here."""
    options = {
        "write-combined": kIODirectionInOut | kIOMapWriteCombineCache,
        "pageable": kIODirectionInOut | kIOMemoryPageable,
    }[kind]
    with OtherProcess(owner_of_buffers) as other:
        memory = buffer(IOOptions.of(options), SIZE, task=task_of(other.hear()))
        other.tell("receive")
        there = other.hear()
        memory.prepare()
        segments = memory.segments()
        content = data.take(SIZE)
        seen = bench.device_writes_by_page(memory, content)
        other.tell("read")
        wrong = difference(content, other.hear())
        memory.complete()
        memory.release()
        other.tell("release")
        other.hear()
    attest(
        MAPPER,
        asked=f"{SIZE} bytes of another process, {kind}",
        attested=f"mapped there at {there:#x}; {seen}",
        kept=not wrong and segments == [(seen.address, SIZE)],
        reason=f"the other process: {wrong or 'right'}; segments {segments}",
    )


@pytest.mark.promise(DENIAL)
def test_buffer_whose_process_died(
    bench: DmaChecker, buffer: MakeBuffer, data: Patterns, denied: Denial
) -> None:
    """It stays mapped for the device until its maker lets go, and no longer."""
    with OtherProcess(owner_of_buffers) as other:
        memory = buffer(IOOptions.of(kIODirectionInOut), SIZE, task=task_of(other.hear()))
        other.tell("receive")
        other.hear()
        other.kill()
        address = bench.device_writes(memory, data.take(SIZE)).address
        memory.release()
    denied("write", address, DmaReason.UNMAPPED, write=True)
    denied.done("released, of a process that died: refused", DENIAL)


@pytest.mark.promise("cache maintenance")
@pytest.mark.parametrize("direction", [kIODirectionOut, kIODirectionIn], ids=["out", "in"])
def test_syncs_are_of_the_memory(
    noncoherent: NonCoherent, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    """Where the device does not snoop, the mapper changes nothing: syncs are due, and do."""
    sending = direction is kIODirectionOut
    old, new = data.take(PAGE), data.take(PAGE)
    memory = make_owned_by_device(noncoherent, CacheMode.COPYBACK, direction, old)
    if sending:
        memory.writeBytes(0, new)
        before = name_bytes(noncoherent.reads(memory, 0, PAGE), old, new)
        memory.sync_for_device()
        after = name_bytes(noncoherent.reads(memory, 0, PAGE), old, new)
    else:
        noncoherent.writes(memory, 0, new)
        before = name_bytes(memory.readBytes(0, PAGE), old, new)
        memory.sync_for_cpu()
        after = name_bytes(memory.readBytes(0, PAGE), old, new)
    physical = noncoherent.bench.witness(memory)[0].physical
    attest(
        "cache maintenance",
        asked=f"{direction.direction.name} through the mapper, with its sync and without",
        attested=f"at {memory.getPhysicalAddress():#x} on the bus, {physical:#x} in memory: "
        f"without {before}, with {after}",
        kept=(before, after) == ("old bytes", "new bytes")
        and physical != memory.getPhysicalAddress(),
    )
