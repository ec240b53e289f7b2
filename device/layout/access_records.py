# SPDX-License-Identifier: Apache-2.0
"""The file of register accesses: records of one size, some of which are followed by text.

The device process writes it beside its trace (`dma_rehearsal.device.access_log`), and the host
reads it for a run's timeline. Times are of CLOCK_MONOTONIC, as those of the trace are.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import ClassVar

ACCESS_MAGIC = b"DMAACC01"  # the file's first bytes
ACCESS_TEXT_MAX = 256  # bytes of text behind one record


class AccessKind(IntEnum):
    """The kind of a record, and the fields that it uses beside ``function``."""

    READ = 1  # all fields
    WRITE = 2  # all fields
    FUNCTION = 3  # length: bytes of the function's name, which follows
    REGISTER = 4  # region, offset; value: 1 if a write acts; length: bytes of its name
    LOST = 5  # time_ns; count: accesses that found no room since the last such record


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One access, or several equal ones in a row.

    ``time_ns`` is when the first one came, and ``span_us`` how much later the last one did
    (microseconds, at most 2**32 - 1); ``count``: how many there were. ``value`` has the first 8 of
    the ``length`` bytes, little-endian. ``region``: 0-5 BARs, 6 expansion ROM, 7 configuration
    space. ``function`` is the number of a FUNCTION record before this one.
    """

    time_ns: int
    offset: int
    value: int
    count: int
    span_us: int
    length: int
    function: int
    kind: int
    region: int

    FORMAT: ClassVar = struct.Struct("<QQQIIHHBB2x")
    SIZE: ClassVar = FORMAT.size

    def pack(self) -> bytes:
        """Return the record's bytes, without the text."""
        return self.FORMAT.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> AccessRecord:
        """Return the record that ``SIZE`` bytes are; any bytes are one."""
        return cls(*cls.FORMAT.unpack(data))
