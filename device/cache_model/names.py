# SPDX-License-Identifier: Apache-2.0
"""The cache model's vocabulary: modes, operations, calls, places in memory, and its errors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from dma_rehearsal.device import layout

LINE_SIZES = layout.CACHE_LINE_SIZES  # bytes
# Bounds: of what a hostile guest can make the model hold, and of how long an operation can take.
MAX_TRACKED = 128 << 20  # bytes of guest memory: 65,536 frames of 2 KiB
MAX_OPERATION = layout.CACHE_MAX_OPERATION  # bytes of one buffer or access
MAX_RETAINED = 384 << 20  # bytes of everything that the model holds: lines, copies, buffers
MAX_PIECES = 131072  # runs of adjacent lines that the same buffers track
MAX_PIECES_OF_BUFFER = 16384  # into which others cut it; bounds the time of its operations
MAX_SHARERS = 16  # buffers of one line; more, up to:
MAX_SMALL_SHARERS = 512  # when all of them together have no more than MAX_OPERATION bytes
MAX_FILES = 128  # that hold tracked memory; each costs a descriptor of this process, or two
MAX_ANNOUNCED = 32  # ranges open at once
# Pieces of one access: so many, and one more for each page that it may touch.
MAX_PIECES_OF_ACCESS = 8
# Bytes that these take at most, besides what they hold of memory.
PIECE_COST = 1200
BUFFER_COST = 2048
SPAN_COST = 512


Mode = layout.CacheModelMode
Direction = layout.CacheDirection
Operation = layout.CacheOperation


class Release(Enum):
    """How a buffer is let go.

    GIVEN_UP: its owner wants nothing that the device wrote and no sync has shown the CPU.
    FORGOTTEN: it was freed long ago, and others store there: nothing can be said of it. In both
    cases the CPU keeps seeing what it sees.
    """

    SETTLED = 0
    GIVEN_UP = 1
    FORGOTTEN = 2


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [offset, offset + length) of one backing, whatever names a backing for the caller."""

    backing: Hashable
    offset: int
    length: int


class GuestMemory(Protocol):
    """G: guest RAM, what the CPU sees. Every CPU of the guest may write to it at any time."""

    def read(self, backing: Hashable, offset: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes."""

    def write(self, backing: Hashable, offset: int, data: bytes) -> None:
        """Store ``data``."""

    def write_where(self, backing: Hashable, offset: int, data: bytes, mask: bytes) -> None:
        """Store the bytes of ``data`` where ``mask``, of the same length, is not 0; no others."""


class CacheError(Exception):
    """Base of this package's errors. A call that raised one changed nothing."""


class BadConfiguration(CacheError):
    """A line size, mode or seed that the model does not have, or tracking while it is off."""


class BadRange(CacheError):
    """A range that is empty, too long, or not the buffer's; or spans that do not join at lines."""


class BadType(CacheError):
    """A memory type for which there are no rules: only WB, WT, WC and UC have them."""


class BadBuffer(CacheError):
    """A buffer that is not tracked, or is tracked already."""


class BadAnnouncement(CacheError):
    """An end without its begin, a begin that is open already, or too many of them."""


class Busy(CacheError):
    """A line is tracked with another memory type."""

    def __init__(self, backing: Hashable, offset: int) -> None:
        super().__init__(f"offset {offset:#x} of {backing} is tracked with another memory type")
        self.backing, self.offset = backing, offset


class TooMuch(CacheError):
    """A bound is reached: what this call should have checked is not checked.

    More would be tracked than ``MAX_TRACKED``, or held than ``MAX_RETAINED``; or there would be
    more pieces than ``MAX_PIECES``, of one buffer more than ``MAX_PIECES_OF_BUFFER``, more buffers
    on a line than ``MAX_SHARERS``, or memory in more files than ``MAX_FILES``.
    """


class Scattered(CacheError):
    """An access to more pieces than it may have: ``MAX_PIECES_OF_ACCESS``. It moved nothing."""

    def __init__(self, backing: Hashable, offset: int, pieces: int) -> None:
        super().__init__(
            f"{pieces} pieces that different buffers track, from offset {offset:#x} of {backing} on"
        )
        self.backing, self.offset = backing, offset


class NotTracked(CacheError):
    """Strict: a no-snoop access to a line that no buffer tracks. It moved nothing."""

    def __init__(self, backing: Hashable, offset: int) -> None:
        super().__init__(f"no buffer tracks offset {offset:#x} of {backing}")
        self.backing, self.offset = backing, offset
