# SPDX-License-Identifier: Apache-2.0
"""Claims: promises of a buffer that the host judges by the device's trace of this test.

A claim names the promise and the memory. The test does not say whether it was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import pytest

from dma_rehearsal.device.layout import MemoryType, WitnessRun
from dma_rehearsal.guest.iobuffer import (
    CacheMode,
    IOBufferMemoryDescriptor,
    IODirection,
    IOMemoryDescriptor,
    IOOptions,
    kIOMapCopybackCache,
    kIOMapDefaultCache,
    kIOMapInhibitCache,
    kIOMapWriteCombineCache,
    kIOMapWriteThruCache,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryPhysicallyContiguous,
)
from dma_rehearsal.guest.iobuffer.base.options import CACHE_SHIFT

PROPERTY: Final = "claim"
CONTIGUOUS: Final = "kIOMemoryPhysicallyContiguous"
HOST_CONTIGUOUS: Final = "kIOMemoryHostPhysicallyContiguous"
EFFECTIVE: Final = {
    CacheMode.INHIBIT: MemoryType.UC,
    CacheMode.WRITE_THRU: MemoryType.WT,
    CacheMode.COPYBACK: MemoryType.WB,
    CacheMode.WRITE_COMBINE: MemoryType.WC,
}
MODES: Final = {
    "kIOMapDefaultCache": (kIOMapDefaultCache, MemoryType.WB),
    "kIOMapInhibitCache": (kIOMapInhibitCache, MemoryType.UC),
    "kIOMapWriteThruCache": (kIOMapWriteThruCache, MemoryType.WT),
    "kIOMapCopybackCache": (kIOMapCopybackCache, MemoryType.WB),
    "kIOMapWriteCombineCache": (kIOMapWriteCombineCache, MemoryType.WC),
}

Claim = dict[str, Any]


class Claimed(Protocol):
    """Memory of a claim: a descriptor, or memory that a test mapped for the device itself."""

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""

    def getLength(self) -> int:
        """Return its bytes."""

    def getDirection(self) -> IODirection:
        """Return what devices may do with it."""

    def segments(self, offset: int = 0, length: int | None = None) -> list[tuple[int, int]]:
        """Return (bus address, bytes) of a part, in order."""


class EvidenceSource(Protocol):
    """The source of a claim's evidence: the platform's log and its witness."""

    @property
    def translated(self) -> bool:
        """Whether bus addresses are not physical ones: the device is behind an IOMMU."""

    def sequence(self) -> int:
        """Return the sequence number of the newest request."""

    def mark(self) -> int:
        """Put a mark into the device's trace; return its number."""

    def walk(self, address: int, length: int) -> Sequence[WitnessRun]:
        """Have the witness walk the mapping of a range of this process."""


Memory = Claimed | IOMemoryDescriptor


def segments_of(memory: Memory) -> list[tuple[int, int]]:
    """Return the segments of the newest preparation, also after the release."""
    if isinstance(memory, IOMemoryDescriptor):
        return memory.last_segments
    return memory.segments()


def reached_of(memory: Memory) -> list[tuple[int, int]]:
    """Return the same, with bounce memory in place of the parts that went through it."""
    if isinstance(memory, IOMemoryDescriptor):
        return memory.reached_segments
    return memory.segments()


def size_of(memory: Memory) -> int:
    """Return the bytes of its segments."""
    return sum(length for _, length in segments_of(memory))


def address_of(memory: Memory) -> int:
    """Return where it is mapped in this process, 0 where it is not."""
    return int(getattr(memory, "address", 0))


def claim(
    memory: Memory, kind: str, promise: str, asked: str, evidence: EvidenceSource, **more: object
) -> Claim:
    """Return a claim of this kind about all requests from when the memory was made until now."""
    made_at, first = "", 0
    if isinstance(memory, IOMemoryDescriptor):
        made_at, first = memory.made_at, memory.made_sequence
    return {
        "promise": promise,
        "kind": kind,
        "asked": asked,
        "buffer": f"{type(memory).__name__} of {size_of(memory)} bytes",
        "made": made_at,
        "ranges": [list(segment) for segment in segments_of(memory)],
        "first": first,
        "last": evidence.sequence(),
        **more,
    }


def contiguity_of(memory: Memory) -> str:
    """Return the name of the promise that a contiguous buffer was made with."""
    options = memory.getOptions() if isinstance(memory, IOBufferMemoryDescriptor) else IOOptions(0)
    ours = kIOMemoryHostPhysicallyContiguous in options
    return HOST_CONTIGUOUS if ours and kIOMemoryPhysicallyContiguous not in options else CONTIGUOUS


def mode_of(memory: Memory) -> CacheMode:
    """Return the cache mode that a buffer was asked for."""
    if isinstance(memory, IOBufferMemoryDescriptor):
        return memory.getOptions().cache_mode
    return CacheMode.DEFAULT


def type_of(mode: CacheMode) -> MemoryType:
    """Return the memory type that a cache mode asks for."""
    return EFFECTIVE[CacheMode.COPYBACK if mode is CacheMode.DEFAULT else mode]


def each_cache_mode() -> pytest.MarkDecorator:
    """Return the mark that runs a test once for each mode, with the mode's promise."""
    return pytest.mark.parametrize(
        "mode", [pytest.param(name, marks=pytest.mark.promise(name)) for name in MODES]
    )


def mode_name(mode: CacheMode) -> str:
    """Return IOKit's name of a cache mode, which is the promise's name."""
    if mode is CacheMode.DEFAULT:
        return "kIOMapDefaultCache"
    return str(IOOptions(int(mode) << CACHE_SHIFT)).partition(" | ")[2]
