# SPDX-License-Identifier: Apache-2.0
"""The state of tracked lines: bytes and marks of many adjacent lines in a few byte arrays.

One line costs three times its size and ten bytes; no object stands for a single line.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from dma_rehearsal.device.cache_model.buffers import Buffer
from dma_rehearsal.device.cache_model.masks import blended, of_lines, padded, runs
from dma_rehearsal.device.cache_model.names import PIECE_COST, Operation
from dma_rehearsal.device.layout import MemoryType

# Marks of a line, one byte of ``Extent.marks`` each.
CACHED = 1
DIRTY = 2  # WB: the CPU's bytes are not in DRAM
STALE = 4  # WB: dirty, and a device has read older bytes than the CPU stored
FRESH = 8  # WB: dirty, but only because it was tracked

_LINE_COST = 10  # bytes: a line's marks, its last operation and that one's number

IMAGED = frozenset({MemoryType.WB, MemoryType.WT})
UNIMAGED = frozenset({MemoryType.WC, MemoryType.UC})


def lines_with(wanted: int, without: int = 0) -> bytes:
    """Return what ``bytes.translate`` needs to make a mask of marks.

    Set are the lines with any mark of ``wanted`` and none of ``without``. ``wanted`` 0: any line.
    """
    return bytes(
        0xFF if (each & wanted or not wanted) and not each & without else 0x00
        for each in range(256)
    )


def marking(keep: int, add: int) -> bytes:
    """Return what ``bytes.translate`` needs to keep some marks of a line and add others."""
    return bytes(each & keep | add for each in range(256))


_BLOCK = 1 << 16
_PART = 1 << 18  # bytes of a window's parts
_FILLS = {value: bytes((value,)) * _BLOCK for value in (0x00, 0xFF)}


def fill(array: bytearray, start: int, end: int, value: int) -> None:
    """Set bytes to 0x00 or 0xFF, without an allocation that is as large as the range."""
    with memoryview(_FILLS[value]) as filler, memoryview(array) as target:
        for at in range(start, end, _BLOCK):
            length = min(_BLOCK, end - at)
            target[at : at + length] = filler[:length]


@dataclass(slots=True, eq=False)
class Extent:
    """Adjacent lines of one backing that the same buffers track with the same type.

    ``image`` is D and ``known`` is B; ``written`` is W, 0xFF for each marked byte. WC and UC lines
    have none of the three. ``origin`` and ``origin_line`` say which line of which buffer the first
    one was when it was tracked first. ``last`` and ``when``: each line's last operation.
    """

    backing: Hashable
    start: int
    size: int
    line: int
    type: MemoryType
    buffers: list[Buffer]
    origin: int
    origin_line: int
    image: bytearray = field(default_factory=bytearray)
    known: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)
    marks: bytearray = field(default_factory=bytearray)
    last: bytearray = field(default_factory=bytearray)
    when: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def end(self) -> int:
        """Return the offset behind the last line."""
        return self.start + self.size

    @property
    def imaged(self) -> bool:
        """Return whether the lines have a DRAM image of their own: WB and WT."""
        return self.type in IMAGED

    @property
    def retained(self) -> int:
        """Return the bytes that the model holds for these lines, at most."""
        return retained(self.size, self.line, imaged=self.imaged)

    def same_history(self, index: int, first: int, last: int) -> bool:
        """Return whether the lines [first, last) have the last operation of line ``index``."""
        count = last - first
        return (
            self.when[first:last] == array("Q", (self.when[index],)) * count
            and self.last[first:last] == self.last[index : index + 1] * count
        )

    def split(self, offset: int) -> Extent:
        """Cut the lines from ``offset`` on off, and return them."""
        size = offset - self.start
        lines = size // self.line
        rest = Extent(
            *(self.backing, offset, self.size - size, self.line, self.type, list(self.buffers)),
            *(self.origin, self.origin_line + lines),
        )
        # New arrays for both: one that is cut keeps its room.
        rest.image, self.image = self.image[size:], self.image[:size]
        rest.known, self.known = self.known[size:], self.known[:size]
        rest.written, self.written = self.written[size:], self.written[:size]
        rest.marks, self.marks = self.marks[lines:], self.marks[:lines]
        rest.last, self.last = self.last[lines:], self.last[:lines]
        rest.when, self.when = self.when[lines:], self.when[:lines]
        self.size = size
        return rest

    def joins(self, other: Extent) -> bool:
        """Return whether ``other`` lies behind this one and nothing tells them apart."""
        return (
            self.end == other.start
            and self.type is other.type
            and self.buffers == other.buffers
            and self.origin == other.origin
            and self.origin_line + self.size // self.line == other.origin_line
        )

    def join(self, other: Extent) -> None:
        """Take in the lines of one that ``joins``."""
        self.size += other.size
        self.image += other.image
        self.known += other.known
        self.written += other.written
        self.marks += other.marks
        self.last += other.last
        self.when += other.when


def retained(size: int, line: int, *, imaged: bool) -> int:
    """Return the bytes that the model holds for ``size`` bytes of adjacent lines, at most."""
    content = (3 * size if imaged else 0) + _LINE_COST * (size // line)
    return PIECE_COST + content * 9 // 8  # an array that has grown has room to spare


@dataclass(slots=True)
class Window:
    """Lines that one operation works on, and its copy of their memory.

    ``first`` and ``lines`` count in the extent; ``memory`` is G, copied once, with what the
    operation itself changed in it. ``low`` and ``high`` are where the bytes that the operation is
    about begin and end in these lines. Positions are bytes from the extent's start.
    """

    extent: Extent
    first: int
    lines: int
    memory: bytes | bytearray
    low: int
    high: int

    @property
    def start(self) -> int:
        """Return the position of the first byte."""
        return self.first * self.extent.line

    @property
    def end(self) -> int:
        """Return the position behind the last byte."""
        return self.start + len(self.memory)

    def bytes_at(self, start: int, end: int) -> bytes:
        """Return what the copy has at some positions, without a copy where that is all of it."""
        if end - start == len(self.memory) and isinstance(self.memory, bytes):
            return self.memory
        return bytes(memoryview(self.memory)[start - self.start : end - self.start])

    def parts(self) -> Iterator[Window]:
        """Yield these lines in windows of bounded size, each with its own copy."""
        step = _PART // self.extent.line
        for first in range(self.first, self.first + self.lines, step):
            lines = min(step, self.first + self.lines - first)
            start = first * self.extent.line
            memory = self.bytes_at(start, start + lines * self.extent.line)
            yield Window(self.extent, first, lines, memory, self.low, self.high)

    def replace(self, start: int, data: bytes, mask: bytes | None = None) -> None:
        """Enter what the operation itself wrote to memory, where ``mask`` is set, into the copy."""
        if mask is not None:
            data = blended(self.bytes_at(start, start + len(data)), data, mask)
        if len(data) == len(self.memory):
            self.memory = data
            return
        if isinstance(self.memory, bytes):
            self.memory = bytearray(self.memory)
        self.memory[start - self.start : start - self.start + len(data)] = data

    def lines_with(self, table: bytes) -> bytes:
        """Return the mask of the lines here whose marks are those of a table of ``lines_with``."""
        marks = self.extent.marks[self.first : self.first + self.lines]
        return bytes(marks.translate(table))

    def runs(self, lines: bytes) -> Iterator[tuple[int, int]]:
        """Yield the runs [first, last) that a mask of the lines here has, counted as they are."""
        return ((self.first + first, self.first + last) for first, last in runs(lines))

    def lines_of(self, start: int, mask: bytes) -> bytes:
        """Return the mask of the lines here with a byte of ``mask``, which begins at ``start``."""
        whole = padded(mask, start - self.start, len(self.memory))
        return of_lines(whole, self.extent.line)

    def written(self, low: int, high: int) -> bytes:
        """Return the mask of the lines here with bytes in W at positions [low, high)."""
        if self.extent.written.find(b"\xff", low, high) < 0:
            return bytes(self.lines)
        return self.lines_of(low, bytes(memoryview(self.extent.written)[low:high]))

    def remark(self, table: bytes, lines: bytes | None = None) -> None:
        """Change the marks of the lines here, or of those in a mask, by a table of ``marking``."""
        marks, last = self.extent.marks, self.first + self.lines
        old = marks[self.first : last]
        new = old.translate(table)
        marks[self.first : last] = new if lines is None else blended(old, new, lines)

    def note(self, operation: Operation, number: int) -> None:
        """Enter the last operation of all lines here."""
        last = self.first + self.lines
        self.extent.last[self.first : last] = bytes((operation,)) * self.lines
        self.extent.when[self.first : last] = array("Q", (number,)) * self.lines


@dataclass(frozen=True, slots=True)
class Line:
    """One line, to look at. ``buffers`` are the tags of those that track it; the rest: Extent."""

    type: MemoryType
    buffers: Sequence[int]
    cached: bool
    dirty: bool
    fresh: bool
    read_stale: bool
    image: bytes
    known: bytes
    written: bytes


def look(extent: Extent, offset: int) -> Line:
    """Return the line that holds ``offset``, which must be in the extent."""
    index = (offset - extent.start) // extent.line
    place = slice(index * extent.line, (index + 1) * extent.line)
    marks = extent.marks[index]
    return Line(
        extent.type,
        tuple(each.tag for each in extent.buffers),
        bool(marks & CACHED),
        bool(marks & DIRTY),
        bool(marks & FRESH),
        bool(marks & STALE),
        bytes(extent.image[place]),
        bytes(extent.known[place]),
        bytes(extent.written[place]),
    )
