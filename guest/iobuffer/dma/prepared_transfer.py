# SPDX-License-Identifier: Apache-2.0
"""The prepared part of a command's memory: its segments, and the bytes that bounce."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from dma_rehearsal.guest.iobuffer.base import provenance
from dma_rehearsal.guest.iobuffer.base.errors import (
    IOBadArgumentError,
    IONotReadyError,
    IOReturn,
    IOReturnError,
    undo,
)
from dma_rehearsal.guest.iobuffer.base.options import IODirection
from dma_rehearsal.guest.iobuffer.base.ranges import Segment
from dma_rehearsal.guest.iobuffer.descriptors import coverage
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import IOMemoryDescriptor, Part
from dma_rehearsal.guest.iobuffer.descriptors.preparation import device_may
from dma_rehearsal.guest.iobuffer.dma.bounce_buffer import BounceAllocator, Layout, lay_out
from dma_rehearsal.guest.iobuffer.dma.specification import MappingOptions, Specification


def checked_part(
    specification: Specification, memory: IOMemoryDescriptor, offset: int, length: int
) -> int:
    """Return the length of a part, 0 being all from ``offset`` on.

    `IOBadArgumentError`, kIOReturnOverrun past the memory's end, kIOReturnNotAligned.
    """
    if offset < 0 or length < 0:
        raise IOBadArgumentError(f"{length} bytes from {offset} on: neither below 0", length=length)
    room = memory.getLength() - offset
    if room < length or room < 0:
        raise IOReturnError(
            f"{length} bytes from {offset} on: the memory has {memory.getLength()}",
            code=IOReturn.kIOReturnOverrun,
            length=length,
        )
    length = length or room
    if length % specification.length_alignment:
        raise IOReturnError(
            f"{length} bytes: the device does multiples of {specification.length_alignment}",
            code=IOReturn.kIOReturnNotAligned,
            length=length,
        )
    return length


@dataclass(frozen=True, slots=True)
class Transfer:
    """One of several DMAs: ``length`` bytes of the memory from ``offset`` on, in ``segments``."""

    offset: int
    length: int
    segments: list[Segment]


class Prepared:
    """``length`` bytes of ``memory`` from ``offset`` on, laid out for a device; see `lay_out`.

    Raises `IONotReadyError` for memory that is not prepared, `IOBadArgumentError` for guard pages,
    kIOReturnNoSpace for more segments than the device does at once.
    """

    def __init__(
        self,
        specification: Specification,
        memory: IOMemoryDescriptor,
        offset: int,
        length: int,
        allocator: BounceAllocator,
        *,
        whole: bool = False,
    ) -> None:
        """``whole``: through a bounce buffer in any case."""
        if not memory.prepared:
            raise IONotReadyError(f"{memory!r}: prepare the memory before the command")
        unmapped = specification.mapping is MappingOptions.kUnmapped
        parts = (memory.physical_segments if unmapped else memory.segments)(offset, length)
        found = sum(size for _, size in parts)
        if found != length:
            raise IOBadArgumentError(
                f"{length} bytes from {offset} on of {memory!r}: {length - found} of them are "
                "guard pages, which have no memory for a device",
                length=length,
            )
        self._memory = memory
        self.offset = offset
        self.length = length
        self.count = 1
        self._direction = memory.getDirection()
        self._layout = Layout([])
        if length:
            self._layout = lay_out(specification, parts, self._direction, allocator, whole=whole)
        most = specification.max_segments
        if most and len(self.segments) > most:
            error = TooManySegments(length, [size for _, size in self.segments], most)
            undo(error, self.close)
            raise error
        self._generated: list[Segment] = []  # (offset, length), ascending and apart
        self._seen = 0  # when memory and bounce buffer were brought together last
        if (bounce := self._layout.bounce) is not None:
            for copy in bounce.copies:
                place = bounce.address + copy.place
                memory._record.bounces(offset + copy.offset, copy.length, place)
        self._note_seen()
        self._starts = list(accumulate((size for _, size in self.segments), initial=0))

    @property
    def segments(self) -> list[Segment]:
        """All segments, in the memory's order."""
        return self._layout.segments

    @property
    def bounced(self) -> int:
        """The bytes that go through the bounce buffer."""
        bounce = self._layout.bounce
        return 0 if bounce is None else sum(each.length for each in bounce.copies)

    @property
    def used(self) -> IOMemoryDescriptor:
        """The memory that the device uses: the bounce buffer when all of it is in there."""
        bounce = self._layout.bounce
        return self._memory if bounce is None or self.bounced < self.length else bounce.memory

    def generate(self, offset: int, number: int, bits: int) -> tuple[list[Segment], int]:
        """Return up to ``number`` segments from ``offset`` on, and the offset behind them."""
        if number <= 0:
            raise IOBadArgumentError(f"{number} segments: at least 1")
        if not 0 <= offset < self.length:
            raise IOReturnError(
                f"segments from {offset} on: {self.length} bytes are prepared",
                code=IOReturn.kIOReturnOverrun,
                length=self.length,
            )
        begin = offset
        index = bisect_right(self._starts, offset) - 1
        segments = []
        for address, length in self.segments[index : index + number]:
            skip = offset - self._starts[index]
            segments.append((address + skip, length - skip))
            index += 1
            offset = self._starts[index]
        for address, length in segments:
            if (address + length - 1) >> bits:
                raise IOReturnError(
                    f"the segment of {length} bytes at {address:#x} is above {bits} address bits",
                    code=IOReturn.kIOReturnMessageTooLarge,
                    address=address,
                    length=length,
                )
        self._generated = _joined(self._generated, begin, offset)
        return segments, offset

    def made_of(self) -> Iterator[Part]:
        """Yield the descriptors' parts that caches are maintained by, bounce buffers among them."""
        for memory, offset, length in self.pieces(0, self.length):
            yield from memory._made_of(offset, length)

    def pieces(self, offset: int, length: int) -> Iterator[Part]:
        """Yield (descriptor, offset in it, length) of where the device sees a part.

        Nothing when it is not within the prepared part.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            return
        end, bounce = offset + length, self._layout.bounce
        for copy in () if bounce is None else bounce.copies:
            first, last = max(offset, copy.offset), min(end, copy.offset + copy.length)
            if bounce is None or first >= last:
                continue
            if offset < first:
                yield self._memory, self.offset + offset, first - offset
            yield bounce.memory, copy.place + first - copy.offset, last - first
            offset = last
        if offset < end:
            yield self._memory, self.offset + offset, end - offset

    def check_generated(self) -> None:
        """Raise `UnfinishedList` when segments were generated, and not to the end."""
        done = sum(length for _, length in self._generated)
        if 0 < done < self.length:
            raise UnfinishedList(done, self.length)

    def newer(self, offset: int, length: int) -> str:
        """Say which bytes of the bounce buffer a device wrote, and the memory has not; else "".

        Of a part of the memory. "" as well when nobody outside sees the DMA.
        """
        bounce = self._layout.bounce
        if bounce is None or not self._may(IODirection.kIODirectionIn):
            return ""
        end = offset + length
        for copy in bounce.copies:
            first = max(offset, self.offset + copy.offset)
            last = min(end, self.offset + copy.offset + copy.length)
            if first >= last:
                continue
            address = bounce.address + copy.place + first - self.offset - copy.offset
            count = coverage.written(address, last - first, self._seen)
            if count:
                return (
                    f"{count} bytes that a device wrote for them are in the bounce buffer, at "
                    f"{address:#x} on the bus"
                )
        return ""

    def copy_out(self) -> None:
        """Copy the bytes that a device may read into the bounce buffer, if there is one."""
        if self._layout.bounce is not None and self._may(IODirection.kIODirectionOut):
            self._layout.bounce.copy_out(self._memory, self.offset)
        self._note_seen()

    def copy_back(self) -> None:
        """Copy the bytes that a device may have written back to the memory, if they bounced."""
        if self._layout.bounce is not None and self._may(IODirection.kIODirectionIn):
            self._layout.bounce.copy_back(self._memory, self.offset)
        self._note_seen()

    def close(self) -> None:
        """Free the bounce buffer."""
        if self._layout.bounce is not None:
            self._layout.bounce.close()

    def _note_seen(self) -> None:
        if self._layout.bounce is not None:
            self._seen = provenance.clock()

    def _may(self, direction: IODirection) -> bool:
        return bool(device_may(self._direction) & direction)


class UnfinishedList(IOReturnError):
    """A transfer list was not generated to its end: the device got only a part of it.

    The call that raised it is done all the same.
    """

    def __init__(self, done: int, length: int) -> None:
        super().__init__(
            f"segments for {done} of {length} bytes were generated: generate until offset reaches "
            "the length; complete(synchronize=False) ends a transfer that was given up",
            length=length,
        )


def _joined(ranges: list[Segment], start: int, end: int) -> list[Segment]:
    """Return ranges (offset, length), ascending and apart, with [start, end) among them."""
    kept = []
    for at, length in ranges:
        if at + length < start or end < at:
            kept.append((at, length))
        else:
            start, end = min(start, at), max(end, at + length)
    return sorted([*kept, (start, end - start)])


class TooManySegments(IOReturnError):
    """A part has more segments than the device does at once; ``fit``: bytes of the first ones."""

    default_code = IOReturn.kIOReturnNoSpace

    def __init__(self, length: int, sizes: list[int], most: int) -> None:
        super().__init__(
            f"{length} bytes are {len(sizes)} segments, and the device does {most} at once; "
            "use transfers()",
            length=length,
        )
        self.fit = sum(sizes[:most])
