# SPDX-License-Identifier: Apache-2.0
"""Bounce buffers: memory that a device can reach, in place of memory that it cannot.

All of a transfer bounces when the memory's addresses or lengths are misaligned, or on request; else
only the pages above the device's address limit do, and only without an IOMMU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dma_rehearsal.guest.iobuffer.base.errors import IOReturn, IOReturnError, undo
from dma_rehearsal.guest.iobuffer.base.options import (
    IODirection,
    IOOptions,
    kIODirectionInOut,
    kIOMemoryMapperNone,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, Segment, align_up
from dma_rehearsal.guest.iobuffer.base.task import current_task
from dma_rehearsal.guest.iobuffer.descriptors.buffer import IOBufferMemoryDescriptor
from dma_rehearsal.guest.iobuffer.descriptors.coverage import CoverageError
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor, merged
from dma_rehearsal.guest.iobuffer.dma.specification import MappingOptions, Specification

# (length, alignment, highest address that may be used) -> memory in one segment
BounceAllocator = Callable[[int, int, int], IOMemoryDescriptor]


def allocate(length: int, alignment: int, highest: int) -> IOMemoryDescriptor:
    """Allocate with a physical mask, whose low zero bits are the alignment."""
    return _masked(kIODirectionInOut | kIOMemoryPhysicallyContiguous, length, alignment, highest)


def allocate_unmapped(length: int, alignment: int, highest: int) -> IOMemoryDescriptor:
    """Allocate memory whose bus addresses are physical, also behind a mapper."""
    options = kIODirectionInOut | kIOMemoryPhysicallyContiguous | kIOMemoryMapperNone
    return _masked(options, length, alignment, highest)


def _masked(options: IOOptions, length: int, alignment: int, highest: int) -> IOMemoryDescriptor:
    return IOBufferMemoryDescriptor.inTaskWithPhysicalMask(
        current_task(), options, length, highest & -alignment
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """``length`` bytes that are at ``offset`` of the transfer, and at ``place`` of the bounce."""

    offset: int
    place: int
    length: int


class Bounce:
    """A bounce buffer, prepared for the device, and the parts of the transfer that are in it."""

    def __init__(self, memory: IOMemoryDescriptor, address: int, copies: list[Copy]) -> None:
        self.memory = memory
        self.address = address
        self.copies = copies

    def copy_out(self, source: IOMemoryDescriptor, offset: int) -> None:
        """Bring the memory's bytes into the bounce buffer; ``offset``: where the transfer is."""
        for each in self.copies:
            data = source.readBytes(offset + each.offset, each.length)
            _check(self.memory.writeBytes(each.place, data), each.length)

    def copy_back(self, target: IOMemoryDescriptor, offset: int) -> None:
        """Bring the bounce buffer's bytes into the memory."""
        for each in self.copies:
            data = self.memory.readBytes(each.place, each.length)
            _check(target.writeBytes(offset + each.offset, data), each.length)

    def close(self) -> None:
        """Withdraw the grants, and free; `IOBusyError` while a DMA may be active.

        `CoverageError` (when it is done), as `complete`.
        """
        try:
            self.memory.complete()
        except CoverageError:  # it is completed
            self.memory.release()
            raise
        self.memory.release()


@dataclass(slots=True)
class Layout:
    """The segments of a transfer in order, and the bounce buffer that some of them are in."""

    segments: list[Segment]
    bounce: Bounce | None = None


def lay_out(
    specification: Specification,
    memory: list[Segment],
    direction: IODirection,
    allocator: BounceAllocator,
    *,
    whole: bool = False,
) -> Layout:
    """Return segments that the device can reach for ``memory``; the other parts bounce.

    ``whole``: bounce all of it in any case. Raises what the allocator does.
    """
    length = sum(size for _, size in memory)
    pieces = specification.cut(memory)
    whole = whole or pieces is None
    if not whole and pieces is not None:
        if specification.mapped or all(specification.reaches(piece) for piece in pieces):
            return Layout(pieces)
        # Bytes keep their place in a page, which gives no alignment above a page.
        if specification.granule <= PAGE:
            layout = _bounced_pages(specification, memory, direction, allocator)
            if layout is not None:
                return layout
    copies = [Copy(0, 0, length)]
    bounce = _bounce(specification, direction, allocator, length, copies)
    cut = specification.cut([(bounce.address, length)])
    return Layout(cut or [], bounce)  # memory with the granule's alignment can always be cut


def _bounced_pages(
    specification: Specification,
    memory: list[Segment],
    direction: IODirection,
    allocator: BounceAllocator,
) -> Layout | None:
    """Bounce the pages above the limit; None when the segments would be misaligned then."""
    parts: list[tuple[bool, int, int]] = []  # whether it bounces; its address or place; its length
    copies: list[Copy] = []
    offset = size = 0
    for address, length in memory:
        below = max(0, min(length, specification.address_limit - address))
        if below:
            parts.append((False, address, below))
        if below < length:
            place = size + (address + below) % PAGE
            above = length - below
            parts.append((True, place, above))
            copies.append(Copy(offset + below, place, above))
            size = align_up(place + above, PAGE)
        offset += length
    bounce = _bounce(specification, direction, allocator, size, copies)
    segments = [(bounce.address + at if bounces else at, n) for bounces, at, n in parts]
    cut = specification.cut(merged(iter(segments)))
    if cut is None:
        bounce.close()
        return None
    return Layout(cut, bounce)


def _bounce(
    specification: Specification,
    direction: IODirection,
    allocator: BounceAllocator,
    length: int,
    copies: list[Copy],
) -> Bounce:
    alignment = max(PAGE, specification.granule)
    if specification.mapping is MappingOptions.kUnmapped and allocator is allocate:
        allocator = allocate_unmapped
    memory = allocator(length, alignment, specification.address_limit - 1)
    memory._record.role = "bounce memory"
    try:
        memory.prepare(direction)
        address, size = memory.getPhysicalSegment(0)
        wrong = (
            f"has a segment of {size}"
            if size < length
            else f"is not aligned to {alignment}"
            if address % alignment
            else f"is above {specification.address_bits} address bits"
            if not specification.reaches((address, length))
            else ""
        )
        if wrong:
            raise IOReturnError(
                f"the bounce buffer of {length} bytes at {address:#x} {wrong}",
                code=IOReturn.kIOReturnDMAError,
                address=address,
                length=length,
            )
    except BaseException as error:
        undo(error, lambda: _give_back(memory))
        raise
    return Bounce(memory, address, copies)


def _give_back(memory: IOMemoryDescriptor) -> None:
    """Complete the preparation of `_bounce`, if there is one, and release."""
    if memory.prepared > memory._own_preparations:
        with suppress(CoverageError):  # it is completed, and no DMA was to come
            memory.complete()
    memory.release()


def _check(moved: int, length: int) -> None:
    """Refuse a short move: memory that has become shorter since prepare() moves nothing."""
    if moved != length:
        raise IOReturnError(
            f"{length} bytes between the memory and its bounce buffer, and {moved} were moved: has "
            "the memory's length changed since prepare()?",
            code=IOReturn.kIOReturnUnderrun,
            length=length,
        )
