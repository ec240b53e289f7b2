# SPDX-License-Identifier: Apache-2.0
"""Option values, the cache field (which is not a set of flags), and the error tree."""

from __future__ import annotations

import pytest

from dma_rehearsal.guest import iobuffer
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBadArgumentError,
    IODirection,
    IONoMemoryError,
    IOOptions,
    IOReturn,
    IOReturnError,
    kIODirectionIn,
    kIODirectionInOut,
    kIODirectionOut,
    kIOMapCopybackCache,
    kIOMapInhibitCache,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
    kIOMemoryMapperNone,
    kIOMemoryPhysicallyContiguous,
)

MODES = [kIOMapInhibitCache, kIOMapWriteThruCache, kIOMapCopybackCache, kIOMapWriteCombineCache]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kIODirectionNone", 0),
        ("kIODirectionIn", 1),
        ("kIODirectionOut", 2),
        ("kIODirectionInOut", 3),
        ("kIOMemoryAutoPrepare", 0x8),
        ("kIOMemoryPhysicallyContiguous", 0x10),
        ("kIOMemoryPageable", 0x20),
        ("kIOMemoryPurgeable", 0x40),
        ("kIOMemoryHostPhysicallyContiguous", 0x80),
        ("kIOMapInhibitCache", 0x100),
        ("kIOMapWriteThruCache", 0x200),
        ("kIOMapCopybackCache", 0x300),
        ("kIOMapWriteCombineCache", 0x400),
        ("kIOMapCacheMask", 0xF00),
        ("kIOMapCacheShift", 8),
        ("kIOMemoryMapperNone", 0x800),
        ("kIOMemoryKernelUserShared", 0x10000),
        ("kIOMemorySharingTypeMask", 0xF0000),
        ("kIOMemoryThreadSafe", 0x100000),
        ("kIOMemoryClearEncrypt", 0x200000),
        ("kIOMemoryUseReserve", 0x800000),
    ],
)
def test_values_are_iokits(name: str, value: int) -> None:
    assert int(getattr(iobuffer, name)) == value
    assert name in iobuffer.__all__


def test_directions_combine() -> None:
    assert kIODirectionIn | kIODirectionOut == kIODirectionInOut
    assert (kIODirectionIn | kIOMapWriteThruCache).direction is IODirection.kIODirectionIn


@pytest.mark.parametrize("left", MODES)
@pytest.mark.parametrize("right", MODES)
def test_two_cache_modes_are_refused(left: IOOptions, right: IOOptions) -> None:
    if left == right:
        assert left | right == left
        return
    for one, other in ((left, right), (int(left), right), (left, int(right))):
        with pytest.raises(IOBadArgumentError, match="two cache modes") as caught:
            one | other
        assert caught.value.code == IOReturn.kIOReturnBadArgument


def test_bare_integer_is_taken_at_its_value() -> None:
    assert IOOptions.of(0x300).cache_mode is CacheMode.COPYBACK
    assert IOOptions.of(0x900).cache_mode is CacheMode.INHIBIT
    assert kIOMemoryMapperNone in IOOptions.of(0x900)


def test_contains_compares_fields_as_fields() -> None:
    options = kIODirectionIn | kIOMapCopybackCache | kIOMemoryPhysicallyContiguous
    assert kIOMemoryPhysicallyContiguous in options
    assert kIOMapInhibitCache not in options
    assert kIOMapCopybackCache in options


@pytest.mark.parametrize("value", [-1, 1 << 32, True, "1"])
def test_bad_values(value: object) -> None:
    with pytest.raises(IOBadArgumentError):
        IOOptions(value)  # type: ignore[arg-type]


def test_names_are_shown() -> None:
    options = kIODirectionIn | kIOMapWriteCombineCache | 0x4000_0010
    assert str(options) == (
        "kIODirectionIn | kIOMapWriteCombineCache | kIOMemoryPhysicallyContiguous | 0x40000000"
    )


def test_return_codes() -> None:
    """As iokit/IOKit/IOReturn.h has them; the lower bits of iokit_common_err."""
    common = {
        0x2BC: "Error",
        0x2BD: "NoMemory",
        0x2BE: "NoResources",
        0x2C2: "BadArgument",
        0x2C7: "Unsupported",
        0x2C8: "VMError",
        0x2CC: "CannotLock",
        0x2CE: "NotReadable",
        0x2CF: "NotWritable",
        0x2D0: "NotAligned",
        0x2D4: "DMAError",
        0x2D5: "Busy",
        0x2D8: "NotReady",
        0x2D9: "NotAttached",
        0x2DB: "NoSpace",
        0x2DE: "CannotWire",
        0x2E1: "MessageTooLarge",
        0x2E2: "NotPermitted",
        0x2E7: "Underrun",
        0x2E8: "Overrun",
    }
    codes = {f"kIOReturn{name}": 0xE000_0000 | value for value, name in common.items()}
    assert {each.name: int(each) for each in IOReturn if each} == codes
    error = IONoMemoryError("none left", asked=10, largest=3)
    assert isinstance(error, IOReturnError)
    assert isinstance(error, MemoryError)
    assert (error.code, error.asked, error.largest) == (IOReturn.kIOReturnNoMemory, 10, 3)
    assert str(error) == "kIOReturnNoMemory (0xe00002bd): none left"
