"""The cache model's vocabulary: modes, operations, calls, places in memory, and its errors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from device import layout

LINE_SIZES = layout.CACHE_LINE_SIZES  # bytes
# Bounds of one model and of one buffer or access, in bytes: what a hostile guest can make the model
# hold, and how long one operation can take. The worst writes every other byte to memory, some 2 us
# each.
MAX_TRACKED = 64 << 20
MAX_OPERATION = layout.CACHE_MAX_OPERATION
MAX_ANNOUNCED = 16  # ranges open at once


Mode = layout.CacheModelMode
Direction = layout.CacheDirection
Operation = layout.CacheOperation


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


class CacheError(Exception):
    """Base of this package's errors. What raised one changed nothing."""


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
    """More bytes would be tracked than ``MAX_TRACKED``."""


class NotTracked(CacheError):
    """Strict: a no-snoop access to a line that no buffer tracks. It moved nothing."""

    def __init__(self, backing: Hashable, offset: int) -> None:
        super().__init__(f"no buffer tracks offset {offset:#x} of {backing}")
        self.backing, self.offset = backing, offset
