# SPDX-License-Identifier: Apache-2.0
"""The platform's cache model: commands, status, limits, and the reports that it makes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dma_rehearsal.device.layout.platform import PLATFORM_RESULTS_SIZE


class CacheCommand(IntEnum):
    """CACHE_CTL: what to do, with which registers."""

    CONFIGURE = 1  # MODE, LINE, SEED; drops every track without touching memory
    TRACK = 2  # TAG, DIRECTION, and the witness's inputs
    UNTRACK = 3  # TAG
    CLEAN = 4  # TAG, OFFSET, LENGTH, as all below but TAKE_REPORTS
    INVALIDATE = 5
    CLEAN_INVALIDATE = 6
    SYNC_FOR_DEVICE = 7  # and DIRECTION
    SYNC_FOR_CPU = 8  # and DIRECTION
    ANNOUNCE_BEGIN = 9
    ANNOUNCE_END = 10
    TAKE_REPORTS = 11  # the oldest ones go to BAR1 and are forgotten; gives REPORTS
    COMPLETE = 12  # TAG, OFFSET, LENGTH


class CacheStatus(IntEnum):
    """CACHE_STATUS: how the last command ended. Only OK has changed anything."""

    OK = 0
    BAD_COMMAND = 1
    BAD_CONFIGURATION = 2  # a mode or line size that there is not, or TRACK while the mode is off
    BAD_BUFFER = 3  # the tag is not tracked, or (TRACK) is tracked already
    BAD_RANGE = 4  # empty, too long, or not the buffer's
    BAD_DIRECTION = 5
    BAD_TYPE = 6  # write-protected memory has no rules
    BAD_ANNOUNCEMENT = 7  # an end without its begin, a second begin, or too many
    BUSY = 8  # a line is tracked with another memory type; CACHE_FAULT says where
    TOO_MUCH = 9  # more memory than the model may track
    NO_BACKING = 10  # memory that only the client reaches
    MEMORY_GONE = 11  # the client took a tracked buffer's memory away; CONFIGURE ends that
    NEVER_RUN = 12
    WALK_NOT_PRESENT = 16  # TRACK's walk, as WitnessStatus has it; CACHE_FAULT says where
    WALK_BAD_ARGUMENT = 17
    WALK_TABLE_UNREACHABLE = 18
    WALK_RESERVED_BIT = 19
    WALK_TOO_MANY_RUNS = 20
    BUS_MASTER_OFF = 21


class CacheModelMode(IntEnum):
    """CACHE_MODE: what a no-snoop access meets. Off: nothing is tracked, everything is snooped."""

    OFF = 0
    STRICT = 1
    SEEDED = 2


CACHE_LINE_SIZES = (32, 64, 128, 256)  # bytes
CACHE_MAX_OPERATION = 2 << 20  # bytes of one buffer


class CacheDirection(IntEnum):
    """IOKit's kIODirection*: In = the device writes memory, Out = it reads memory."""

    IN = 1
    OUT = 2
    IN_OUT = 3


class CacheOperation(IntEnum):
    """The operations of the cache model; 0 is never used, so that it can mean none."""

    TRACK = 1
    UNTRACK = 2
    SNOOPED_READ = 3
    SNOOPED_WRITE = 4
    NO_SNOOP_READ = 5
    NO_SNOOP_WRITE = 6
    CLEAN = 7
    INVALIDATE = 8
    CLEAN_INVALIDATE = 9
    SYNC_FOR_DEVICE = 10
    SYNC_FOR_CPU = 11
    ANNOUNCE_BEGIN = 12
    ANNOUNCE_END = 13
    EVICTION = 14  # never asked for: what a report names that an eviction caused
    COMPLETE = 15


class CacheReportKind(IntEnum):
    """The kinds of reports. A report of any kind but WRONG_DIRECTION is about lines."""

    STORED_WHILE_DEVICE_OWNS = 1
    WRITE_TO_DIRTY_LINE = 2
    DEVICE_BYTES_LOST = 3
    CPU_BYTES_LOST = 4
    RELEASED_DIRTY = 5
    RELEASED_UNREAD = 6
    WRONG_DIRECTION = 7


class CacheMissingCall(IntEnum):
    """The call that the driver should have made, or why no call is missing."""

    SYNC_FOR_DEVICE_AFTER_STORE = 1
    SYNC_FOR_DEVICE_BEFORE_RECEIVE = 2
    SYNC_FOR_CPU_BEFORE_STORE = 3
    SYNC_FOR_CPU_AFTER_RECEIVE = 4
    SYNC_WITH_THE_BUFFERS_DIRECTION = 5
    SYNC_FOR_DEVICE_AGAIN = 6  # after the store: the one that came is older
    NONE_LINE_IS_SHARED = 7  # of two owners: one stores where the other's bytes are
    NONE_DIRECTION_IS_OUT = 8  # the buffer's own, and the device has written to it


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One report of the cache model: 560 bytes in the platform's BAR1.

    ``tag`` names the buffer, ``other`` the one whose bytes suffered: the same, unless they share a
    line. ``line`` counts the buffer's lines from 0, ``lines`` adjacent ones suffered the same.
    ``expected`` and ``seen``: bytes in the first of them that differs, what a correct driver's data
    would be, and what took its place; ``offset`` is where they begin, in bytes from the buffer's
    first one (negative where it begins inside its first line). The operation ``by`` found it, and
    ``last`` was the last on the first line before; both have numbers.
    """

    kind: CacheReportKind
    missing: CacheMissingCall
    by: CacheOperation
    last: CacheOperation
    tag: int
    other: int
    line: int
    lines: int
    offset: int
    number: int
    last_number: int
    expected: bytes
    seen: bytes

    STRUCT = struct.Struct("<4B4IqQQHH")
    BYTES = max(CACHE_LINE_SIZES)
    SIZE = STRUCT.size + 2 * BYTES

    def pack(self) -> bytes:
        """Return the record's ``SIZE`` bytes."""
        head = self.STRUCT.pack(
            *(self.kind, self.missing, self.by, self.last, self.tag, self.other),
            *(
                self.line,
                self.lines,
                self.offset,
                self.number,
                self.last_number,
                len(self.expected),
                len(self.seen),
            ),
        )
        return head + self.expected.ljust(self.BYTES, b"\0") + self.seen.ljust(self.BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> CacheReport:
        """Read a record's bytes; ValueError for one that no model writes."""
        kind, missing, by, last, tag, other, line, lines, *rest = cls.STRUCT.unpack_from(data)
        offset, number, last_number, expected, seen = rest
        if max(expected, seen) > cls.BYTES:
            raise ValueError(f"a report of {expected} and {seen} bytes")
        first, second = cls.STRUCT.size, cls.STRUCT.size + cls.BYTES
        return cls(
            CacheReportKind(kind),
            CacheMissingCall(missing),
            CacheOperation(by),
            CacheOperation(last),
            *(tag, other, line, lines),
            *(offset, number, last_number),
            bytes(data[first : first + expected]),
            bytes(data[second : second + seen]),
        )


CACHE_REPORTS_MAX = PLATFORM_RESULTS_SIZE // CacheReport.SIZE
