# SPDX-License-Identifier: Apache-2.0
"""DMA commands: the device, with its limits on, moves what a command's segments say."""

from __future__ import annotations

import ctypes
import mmap
import zlib
from collections.abc import Callable
from typing import Self

import pytest

from dma_rehearsal.device.layout import DmaReason, Ext
from dma_rehearsal.guest.drivers.exerciser_features import constrained
from dma_rehearsal.guest.drivers.platform.protection_unit import Grant
from dma_rehearsal.guest.iobuffer import (
    current_task,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMemoryPageable,
)
from dma_rehearsal.guest.iobuffer.base import mistakes
from dma_rehearsal.guest.iobuffer.base.options import IODirection, IOOptions
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE
from dma_rehearsal.guest.iobuffer.descriptors.general_descriptor import IOGeneralMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.guard_pages import IOGuardPageMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.multi_descriptor import IOMultiMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.sub_descriptor import IOSubMemoryDescriptor
from dma_rehearsal.guest.iobuffer.dma.command import IODMACommand, Specification, kForceDoubleBuffer
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Guarded, Patterns, difference, inverted
from dma_rehearsal.guest.testkit.transfers import describe, move_segments, prepared

MakeMemory = Callable[..., IOMemoryDescriptor]

SIZE = 5120
LIMITS = {Ext.ADDRESS_BITS: 32, Ext.ALIGNMENT: 64, Ext.MAX_SEGMENT: 1024, Ext.BOUNDARY: 2048}
NARROW = Specification.of_device(address_bits=32, alignment=64, max_segment=1024, boundary=2048)

# pool, where in the buffer the transfer begins, how much of it has to bounce
PLACES = pytest.mark.parametrize(
    ("pool", "offset", "bounced"),
    [("main", 128, 0), ("high", 128, SIZE), ("main", 3, SIZE)],
    ids=["in reach", "out of reach", "misaligned"],
)


@pytest.mark.unlimited("segments")
@pytest.mark.promise("IODMACommand")
@PLACES
def test_device_reads(
    bench: DmaChecker,
    buffer: MakeMemory,
    data: Patterns,
    attest: Attest,
    pool: str,
    offset: int,
    bounced: int,
) -> None:
    content = data.take(SIZE)
    memory = buffer(kIODirectionOut, 2 * PAGE, PAGE, pool=pool)
    memory.writeBytes(offset, content)
    bench.load(inverted(content))
    with prepared(memory), constrained(bench.device, LIMITS), IODMACommand(NARROW) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        command.prepare(offset, SIZE)
        segments, _ = command.genIOVMSegments(0, SIZE)
        crc, seen = move_segments(bench, segments, write_memory=False), describe(command, segments)
        as_planned = command.bounced == bounced
    wrong = difference(content, memory.readBytes(offset, SIZE))
    attest(
        "IODMACommand",
        asked=f"Out, {SIZE} bytes, at offset {offset} of a page, pool {pool}",
        attested=f"{seen}, CRC {crc:08x}",
        kept=crc == zlib.crc32(content) and not wrong and as_planned,
        reason=wrong,
    )
    attest.direction(memory)  # also by what went to the bounce buffer


@pytest.mark.unlimited("segments")
@pytest.mark.promise("IODMACommand")
@PLACES
def test_device_writes(
    bench: DmaChecker,
    buffer: MakeMemory,
    data: Patterns,
    attest: Attest,
    pool: str,
    offset: int,
    bounced: int,
) -> None:
    content = data.take(SIZE)
    memory = buffer(kIODirectionIn, 2 * PAGE, PAGE, pool=pool)
    memory.writeBytes(0, inverted(bytes(2 * PAGE)))
    bench.load(content)
    with prepared(memory), constrained(bench.device, LIMITS), IODMACommand(NARROW) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        command.prepare(offset, SIZE)
        segments, _ = command.genIOVMSegments(0, SIZE)
        move_segments(bench, segments, write_memory=True)
        early = difference(content, memory.readBytes(offset, SIZE)) == ""
        peeked = any("that a device wrote for them" in each for each in mistakes.taken())
        seen, as_planned = describe(command, segments), command.bounced == bounced
        command.complete()
    ends = memory.readBytes(0, offset), memory.readBytes(offset + SIZE, 2 * PAGE - SIZE - offset)
    wrong = difference(content, memory.readBytes(offset, SIZE)) or difference(
        inverted(bytes(2 * PAGE - SIZE)), b"".join(ends)
    )
    attest(
        "IODMACommand",
        asked=f"In, {SIZE} bytes, at offset {offset} of a page, pool {pool}",
        attested=f"{seen}; in the memory {'before' if early else 'after'} complete()",
        kept=not wrong and as_planned and early == (bounced == 0) and peeked == (bounced > 0),
        reason=wrong,
    )
    attest.direction(memory)


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise("IODMACommand")
@pytest.mark.parametrize("direction", [kIODirectionIn, kIODirectionOut, kIODirectionInOut], ids=str)
def test_forced_double_buffer(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest, direction: IOOptions
) -> None:
    """As in xnu's own test: a pageable buffer of 8 pages, in one segment."""
    memory, content, word = (
        buffer(direction | kIOMemoryPageable, 8 * PAGE),
        data.take(8),
        data.take(4),
    )
    memory.writeBytes(0, content)
    bench.load(word)
    late = bool(direction.direction & IODirection.kIODirectionIn)
    with prepared(memory):
        command = IODMACommand(Specification())
        command.setMemoryDescriptor(memory)
        command.synchronize(kForceDoubleBuffer | IODirection.kIODirectionOut)
        segments, length = command.gen64IOVMSegments(0, 16)
        write = move_segments(bench, [(segments[0][0], 4)], write_memory=late)
        before = memory.readBytes(0, 8)
        peeks = mistakes.taken()
        command.clearMemoryDescriptor()
    after = memory.readBytes(0, 8)
    expected = word + bytes(4) if direction == kIODirectionIn else word + content[4:]
    attest(
        "IODMACommand",
        asked=f"forced double buffer, {direction}",
        attested=f"{len(segments)} segment(s) of {length} bytes, the device's CRC {write:08x}",
        kept=(len(segments), length) == (1, 8 * PAGE)
        and before == content
        and len(peeks) == late
        and after == (expected if late else content)
        and write == zlib.crc32(word if late else content[:4]),
    )


@pytest.mark.unlimited("segments")
@pytest.mark.promise("IOMultiMemoryDescriptor")
def test_several_as_one(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest
) -> None:
    """Entries in the order of the list, guard pages around them; the device reads all at once."""
    content = data.take(2 * PAGE)
    entries = [buffer(kIODirectionOut, PAGE, PAGE) for _ in range(2)]
    entries.reverse()  # not in the order of their addresses, as likely as not
    guards = [IOGuardPageMemoryDescriptor.withSize(PAGE) for _ in range(2)]
    memory = IOMultiMemoryDescriptor.withDescriptors(
        [guards[0], *entries, guards[1]], kIODirectionOut
    )
    memory.writeBytes(PAGE, content)
    with prepared(memory), IODMACommand(Specification(max_segment=PAGE)) as command:
        command.setMemoryDescriptor(memory, autoPrepare=False)
        command.prepare(PAGE, 2 * PAGE)
        segments, _ = command.genIOVMSegments(0, 16)
        crc = move_segments(bench, segments, write_memory=False)
    attest(
        "IOMultiMemoryDescriptor",
        asked="two buffers between guard pages",
        attested=f"{segments[0][0]:#x}, then {segments[-1][0]:#x}, CRC {crc:08x}",
        kept=crc == zlib.crc32(content)
        and segments == [entry.getPhysicalSegment() for entry in entries],
    )
    memory.release()


@pytest.mark.unlimited("segments")
@pytest.mark.promise("IOMultiMemoryDescriptor")
@pytest.mark.parametrize(
    "options",
    [kIODirectionIn, pytest.param(kIODirectionIn | kIOMemoryPageable, marks=pytest.mark.kernel)],
    ids=["wired", "pageable"],
)
def test_one_mapping_of_several(
    bench: DmaChecker, buffer: MakeMemory, data: Patterns, attest: Attest, options: IOOptions
) -> None:
    """Starting within a page, in one or two kinds of memory: the device's bytes are in order."""
    content = data.take(2 * PAGE - 100)
    first = IOSubMemoryDescriptor.withSubRange(
        buffer(kIODirectionIn, PAGE, PAGE), 100, PAGE - 100, kIODirectionIn
    )
    memory = IOMultiMemoryDescriptor.withDescriptors(
        [first, buffer(options, PAGE, PAGE)], kIODirectionIn
    )
    bench.load(content)
    with prepared(memory), memory.map() as mapped:
        move_segments(bench, [*bench.pieces(memory, len(content))], write_memory=True)
        with mapped.view() as view:
            wrong = difference(content, bytes(view))
        place = mapped.getVirtualAddress() % PAGE
    attest(
        "IOMultiMemoryDescriptor",
        asked=f"carve-out memory and {options} in one mapping",
        attested=f"{len(content)} bytes, from {place} of a page on",
        kept=not wrong and place == 100,
        reason=wrong,
    )
    memory.release()
    first.release()


@pytest.mark.unlimited("addresses")
@pytest.mark.kernel
@pytest.mark.promise("withAddressRange")
def test_existing_memory(bench: DmaChecker, data: Patterns, attest: Attest) -> None:
    """A program's own pages, not in the order of their addresses: pinned, then written."""
    content = data.take(2 * PAGE)
    with mmap.mmap(-1, 3 * PAGE) as area:
        area[:] = inverted(bytes(3 * PAGE))
        hold = ctypes.c_ubyte.from_buffer(area)
        start = ctypes.addressof(hold)
        del hold
        bench.load(content)
        ranges = [(start + 2 * PAGE, PAGE), (start + 8, PAGE)]
        memory = IOGeneralMemoryDescriptor.withRanges(ranges, kIODirectionIn, current_task())
        with memory, prepared(memory):
            segments = memory.segments()
            # Pages may happen to lie side by side, which makes one segment across a boundary.
            move_segments(bench, [*bench.pieces(memory, len(content))], write_memory=True)
        found = area[2 * PAGE :] + area[8 : PAGE + 8]
        around = area[:8] + area[PAGE + 8 : 2 * PAGE]
    wrong = difference(content, found) or difference(inverted(bytes(PAGE)), around)
    attest(
        "withAddressRange",
        asked="two ranges of anonymous memory",
        attested=f"{len(segments)} segments, the first at {segments[0][0]:#x}",
        kept=not wrong and sum(length for _, length in segments) == len(content),
        reason=wrong,
    )


class Granting:
    """Records what prepare() and complete() tell the protection unit, within its ``with``."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self.granted: list[Grant] = []

    def grant(self, address: int, length: int, direction: IODirection) -> object:
        """Make a grant."""
        self.granted.append(self._guarded.grant(address, length, direction))
        return self.granted[-1]

    def withdraw(self, grant: object) -> None:
        """Withdraw a grant."""
        for each in [each for each in self.granted if each is grant]:
            self._guarded.unit.withdraw(each.id)

    def reclaim(self) -> None:
        """Do nothing: no process dies here."""

    def __enter__(self) -> Self:
        self._before, dma_platform.access_control = dma_platform.access_control, self
        return self

    def __exit__(self, *_: object) -> None:
        dma_platform.access_control = self._before


@pytest.mark.unlimited("alignment")
@pytest.mark.promise("IOSubMemoryDescriptor")
def test_a_part_alone_is_granted(
    guarded: Guarded, buffer: MakeMemory, data: Patterns, attest: Attest
) -> None:
    """The device writes the part that is prepared, and not one byte before or behind it."""
    bench, memory, content = guarded.bench, buffer(kIODirectionInOut, PAGE, PAGE), data.take(100)
    start = memory.getPhysicalAddress() + 1000
    memory.writeBytes(0, inverted(bytes(PAGE)))
    bench.load(content)
    part = IOSubMemoryDescriptor.withSubRange(memory, 1000, 100, kIODirectionIn)
    with Granting(guarded) as granting:
        with prepared(part):
            bench.dma(start, 100, write_memory=True)
            grant = granting.granted[0]
            for byte, write, reason in (
                (start - 1, True, DmaReason.PROTECTION_OUTSIDE),
                (start + 100, True, DmaReason.PROTECTION_OUTSIDE),
                (start + 50, False, DmaReason.PROTECTION_DIRECTION),
            ):
                guarded.denied(byte, 1, write=write, reason=reason, byte=byte, nearest=grant)
        outside = DmaReason.PROTECTION_OUTSIDE
        late = bench.refused_dma(outside, start, 100, write_memory=True).reason
    part.release()
    around = memory.readBytes(0, 1000) + memory.readBytes(1100, PAGE - 1100)
    wrong = difference(content, memory.readBytes(1000, 100)) or difference(
        inverted(bytes(PAGE - 100)), around
    )
    attest(
        "IOSubMemoryDescriptor",
        asked="100 bytes of a page, for In",
        attested=f"{grant.length} bytes granted at {grant.address:#x}; later: {late.name}",
        kept=late is DmaReason.PROTECTION_OUTSIDE and not wrong,
        reason=wrong,
        evidence="refusal",
    )
