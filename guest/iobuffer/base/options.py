# SPDX-License-Identifier: Apache-2.0
"""The options of ``inTaskWithOptions``: IOKit's names and values.

The cache mode is a field of three bits, not a set of flags: kIOMapInhibitCache |
kIOMapWriteThruCache has the value of kIOMapCopybackCache. So the names here are `IOOptions`, which
keeps the field apart and refuses to combine two modes. A bare integer is taken at its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError

CACHE_SHIFT: Final = 8
# kIOMapCacheMask is 0xf00, but bit 11 is kIOMemoryMapperNone: seven modes can be expressed.
CACHE_FIELD: Final = 0x700
DIRECTION_FIELD: Final = 0x3


class IODirection(IntEnum):
    """kIODirection*: In = the device writes memory, Out = the device reads it."""

    kIODirectionNone = 0
    kIODirectionIn = 1
    kIODirectionOut = 2
    kIODirectionInOut = 3


class CacheMode(IntEnum):
    """The cache field's values, as IOTypes.h numbers them."""

    DEFAULT = 0
    INHIBIT = 1
    WRITE_THRU = 2
    COPYBACK = 3
    WRITE_COMBINE = 4
    COPYBACK_INNER = 5
    POSTED_WRITE = 6
    REAL_TIME = 7


@dataclass(frozen=True, slots=True)
class IOOptions:
    """Options to be or-ed together; ``int()`` gives IOKit's value.

    Raises `IOBadArgumentError` when two different cache modes are combined, and for an integer that
    is negative or above 32 bits.
    """

    value: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise IOBadArgumentError(f"options must be IOOptions or int, not {self.value!r}")
        if not 0 <= self.value < 1 << 32:
            raise IOBadArgumentError(f"options {self.value:#x} are not a 32-bit value")

    @classmethod
    def of(cls, options: IOOptions | int) -> IOOptions:
        """Return ``options`` as IOOptions; an integer is taken at its value."""
        return options if isinstance(options, IOOptions) else cls(options)

    @property
    def direction(self) -> IODirection:
        """The direction field, bits 1:0."""
        return IODirection(self.value & DIRECTION_FIELD)

    @property
    def cache_mode(self) -> CacheMode:
        """The cache field, bits 10:8."""
        return CacheMode((self.value & CACHE_FIELD) >> CACHE_SHIFT)

    def __or__(self, other: IOOptions | int) -> IOOptions:
        if not isinstance(other, IOOptions | int):
            return NotImplemented
        right = IOOptions.of(other)
        ours, theirs = self.cache_mode, right.cache_mode
        if ours and theirs and ours != theirs:
            raise IOBadArgumentError(
                f"two cache modes at once: {_CACHE_NAMES[ours]} and {_CACHE_NAMES[theirs]}; "
                "the cache mode is a field that holds one"
            )
        return IOOptions(self.value | right.value)

    __ror__ = __or__

    def __contains__(self, other: IOOptions | int) -> bool:
        """Whether all of ``other`` is set; fields are compared as fields."""
        wanted = int(other)
        if wanted & CACHE_FIELD and (self.value ^ wanted) & CACHE_FIELD:
            return False
        flags = wanted & ~CACHE_FIELD
        return self.value & flags == flags

    def __int__(self) -> int:
        return int(self.value)  # of an enumeration's member as well

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        """Names joined by " | ", bits without a name in hexadecimal."""
        names = [self.direction.name]
        if self.cache_mode:
            names.append(_CACHE_NAMES[self.cache_mode])
        rest = self.value & ~(DIRECTION_FIELD | CACHE_FIELD)
        for name, flag in _FLAGS.items():
            if rest & flag.value:
                names.append(name)
                rest &= ~flag.value
        if rest:
            names.append(f"{rest:#x}")
        return " | ".join(names)

    def __repr__(self) -> str:
        return f"<IOOptions {self.value:#x}: {self}>"


kIODirectionNone = IOOptions(0)
kIODirectionIn = IOOptions(1)
kIODirectionOut = IOOptions(2)
kIODirectionInOut = IOOptions(3)

kIOMemoryAutoPrepare = IOOptions(0x8)
kIOMemoryPhysicallyContiguous = IOOptions(0x10)
kIOMemoryPageable = IOOptions(0x20)
kIOMemoryPurgeable = IOOptions(0x40)
kIOMemoryHostPhysicallyContiguous = IOOptions(0x80)
kIOMemoryMapperNone = IOOptions(0x800)
kIOMemorySharingTypeMask = 0xF0000
kIOMemoryUnshared = IOOptions(0)
kIOMemoryKernelUserShared = IOOptions(0x10000)
kIOMemoryThreadSafe = IOOptions(0x100000)
kIOMemoryClearEncrypt = IOOptions(0x200000)
kIOMemoryUseReserve = IOOptions(0x800000)

kIOMapCacheShift = CACHE_SHIFT
kIOMapCacheMask = 0xF00
kIOMapDefaultCache = IOOptions(0)
kIOMapInhibitCache = IOOptions(0x100)
kIOMapWriteThruCache = IOOptions(0x200)
kIOMapCopybackCache = IOOptions(0x300)
kIOMapWriteCombineCache = IOOptions(0x400)
kIOMapCopybackInnerCache = IOOptions(0x500)
kIOMapPostedWrite = IOOptions(0x600)
kIOMapRealTimeCache = IOOptions(0x700)

_CACHE_NAMES: Final = {
    CacheMode.DEFAULT: "kIOMapDefaultCache",
    CacheMode.INHIBIT: "kIOMapInhibitCache",
    CacheMode.WRITE_THRU: "kIOMapWriteThruCache",
    CacheMode.COPYBACK: "kIOMapCopybackCache",
    CacheMode.WRITE_COMBINE: "kIOMapWriteCombineCache",
    CacheMode.COPYBACK_INNER: "kIOMapCopybackInnerCache",
    CacheMode.POSTED_WRITE: "kIOMapPostedWrite",
    CacheMode.REAL_TIME: "kIOMapRealTimeCache",
}

_FLAGS: Final = {
    "kIOMemoryAutoPrepare": kIOMemoryAutoPrepare,
    "kIOMemoryPhysicallyContiguous": kIOMemoryPhysicallyContiguous,
    "kIOMemoryPageable": kIOMemoryPageable,
    "kIOMemoryPurgeable": kIOMemoryPurgeable,
    "kIOMemoryHostPhysicallyContiguous": kIOMemoryHostPhysicallyContiguous,
    "kIOMemoryMapperNone": kIOMemoryMapperNone,
    "kIOMemoryKernelUserShared": kIOMemoryKernelUserShared,
    "kIOMemoryThreadSafe": kIOMemoryThreadSafe,
    "kIOMemoryClearEncrypt": kIOMemoryClearEncrypt,
    "kIOMemoryUseReserve": kIOMemoryUseReserve,
}

KNOWN_BITS: Final = DIRECTION_FIELD | CACHE_FIELD | sum(flag.value for flag in _FLAGS.values())
