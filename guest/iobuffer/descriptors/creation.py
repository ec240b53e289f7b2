# SPDX-License-Identifier: Apache-2.0
"""The arguments of `inTaskWithOptions`: their checks, and the request that they make."""

from __future__ import annotations

import warnings
from typing import Final

from dma_rehearsal.guest.iobuffer.base.errors import IOBadArgumentError, IOUnsupportedError
from dma_rehearsal.guest.iobuffer.base.options import (
    KNOWN_BITS,
    CacheMode,
    IODirection,
    IOOptions,
    kIOMapCacheMask,
    kIOMemoryClearEncrypt,
    kIOMemoryHostPhysicallyContiguous,
    kIOMemoryKernelUserShared,
    kIOMemoryMapperNone,
    kIOMemoryPageable,
    kIOMemoryPhysicallyContiguous,
    kIOMemoryPurgeable,
    kIOMemorySharingTypeMask,
    kIOMemoryUseReserve,
)
from dma_rehearsal.guest.iobuffer.base.ranges import PAGE, align_up
from dma_rehearsal.guest.iobuffer.base.task import Task
from dma_rehearsal.guest.iobuffer.descriptors.iommu import BusPlacement
from dma_rehearsal.guest.iobuffer.descriptors.memory_descriptor import as_direction
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.iobuffer.memory.pool import Request

_ADDRESS_LIMIT: Final = 1 << 64

_UNSUPPORTED: Final = (
    (kIOMemoryClearEncrypt, "kIOMemoryClearEncrypt: this memory is not encrypted"),
    (kIOMemoryUseReserve, "kIOMemoryUseReserve: Linux keeps no reserve that a process could name"),
)

CACHE_MODES: Final = {
    CacheMode.DEFAULT: CacheMode.COPYBACK,  # the platform's default
    CacheMode.INHIBIT: CacheMode.INHIBIT,
    CacheMode.WRITE_THRU: CacheMode.WRITE_THRU,
    CacheMode.COPYBACK: CacheMode.COPYBACK,
    CacheMode.WRITE_COMBINE: CacheMode.WRITE_COMBINE,
}


class IOAlignmentWarning(UserWarning):
    """A buffer that is not aligned to a cache line, on a bus that is not coherent."""


def default_alignment(given: int | None) -> int:
    """Return the alignment that was asked for, else a whole cache line where those matter."""
    return dma_platform.coherence.line if given is None else given


def warn_of_neighbours(alignment: int, stacklevel: int) -> None:
    """Warn of an effective alignment below a cache line of a bus that is not coherent."""
    line = dma_platform.coherence.line
    if alignment < line:
        warnings.warn(
            f"alignment {alignment} is less than a cache line of {line} bytes, and the device does "
            "not snoop the caches: what lies beside the buffer in its first and last line is "
            "written back and discarded with it, so syncs of the one destroy bytes of the other; "
            f"leave the alignment out, or ask for {line}",
            IOAlignmentWarning,
            stacklevel=stacklevel + 1,
        )


def check_values(options: IOOptions, capacity: int, alignment: int) -> None:
    """Refuse values that no platform could satisfy."""
    for name, value in ("capacity", capacity), ("alignment", alignment):
        if isinstance(value, bool) or not isinstance(value, int):
            raise IOBadArgumentError(f"{name} must be an int, not {value!r}")
    if capacity <= 0:
        raise IOBadArgumentError(f"capacity {capacity}: at least 1 byte", length=capacity)
    if alignment <= 0 or alignment & (alignment - 1):
        raise IOBadArgumentError(f"alignment {alignment}: a power of two, at least 1")
    if align_up(capacity, PAGE) >= _ADDRESS_LIMIT or capacity + alignment > _ADDRESS_LIMIT:
        raise IOBadArgumentError(
            f"capacity {capacity:#x} at alignment {alignment:#x} passes the end of the addresses",
            length=capacity,
        )
    unknown = int(options) & ~KNOWN_BITS
    if unknown:
        raise IOBadArgumentError(f"options {int(options):#x}: unknown bits {unknown:#x}")
    if kIOMemoryPageable in options:
        for flag in kIOMemoryPhysicallyContiguous, kIOMemoryHostPhysicallyContiguous:
            if flag in options:
                raise IOBadArgumentError("contiguous memory is wired: not with kIOMemoryPageable")
        if alignment > PAGE:
            raise IOBadArgumentError(
                f"alignment {alignment} above a page implies contiguous: not with kIOMemoryPageable"
            )
    elif kIOMemoryPurgeable in options:
        raise IOBadArgumentError("kIOMemoryPurgeable goes only with kIOMemoryPageable")


def check_supported(options: IOOptions) -> None:
    """Refuse options that are not possible on Linux, and say why."""
    for flag, reason in _UNSUPPORTED:
        if int(options) & flag.value:
            raise IOUnsupportedError(reason)
    if options.cache_mode not in CACHE_MODES:
        raise IOUnsupportedError(
            f"cache mode {options.cache_mode.name}: the processor has no page attribute for it"
        )


def check_as_iokit(task: Task, options: IOOptions) -> None:
    """Refuse wired memory in a user task, as IOKit does."""
    if not task.is_kernel and kIOMemoryPageable not in options:
        raise IOBadArgumentError(
            f"wired memory in {task}: IOKit makes it in kernel_task alone; add kIOMemoryPageable, "
            "or make it in kernel_task and create a mapping"
        )


def plain_options(direction: IODirection | IOOptions | int, contiguous: bool) -> IOOptions:
    """Return the options of `withCapacity` and `withBytes`: a direction, and contiguity."""
    options = IOOptions(int(as_direction(int(direction))))
    return options | kIOMemoryPhysicallyContiguous if contiguous else options


def alignment_of(length: int) -> int:
    """Return ``length`` as an alignment: a power of two, and a cache line where those matter."""
    rounded = 1 << (length - 1).bit_length() if isinstance(length, int) and length > 0 else 1
    return max(dma_platform.coherence.line, rounded)


def mask_alignment(mask: int, alignment: int) -> tuple[int, int | None]:
    """Return (alignment, highest bus address) for a physical mask; 0 restricts nothing.

    With an alignment of 1 at most, the mask's low zero bits say it, and it is a page at least:
    0xFFFFF000 is 4 KiB and up to 0xFFFFFFFF.
    """
    if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < _ADDRESS_LIMIT:
        raise IOBadArgumentError(f"physical mask {mask!r}: 64 bits")
    if mask == 0:
        return alignment, None
    low = mask & -mask
    if mask + low & mask:
        raise IOBadArgumentError(
            f"physical mask {mask:#x}: its set bits must be contiguous, from the alignment to the "
            "highest address"
        )
    if alignment <= 1:
        alignment = max(low, PAGE)
    return alignment, mask | (low - 1)


def make_request(
    task: Task, options: IOOptions, capacity: int, alignment: int, highest: int | None
) -> Request:
    """Return the request for the memory; any sharing or cache bit makes the alignment a page.

    kIOMemoryMapperNone is one of IOKit's cache bits (0x800 of kIOMapCacheMask), and does it, too.

    Behind an IOMMU, devices see contiguous memory, and the IOMMU decides how high its addresses
    are; not so with HostPhysicallyContiguous, and with MapperNone.
    """
    if int(options) & (kIOMemorySharingTypeMask | kIOMapCacheMask):
        alignment = max(alignment, PAGE)
    translated = dma_platform.translated and kIOMemoryMapperNone not in options
    contiguous = kIOMemoryHostPhysicallyContiguous in options or (
        not translated and (kIOMemoryPhysicallyContiguous in options or alignment > PAGE)
    )
    return Request(
        capacity,
        alignment,
        CACHE_MODES[options.cache_mode],
        pages=alignment >= PAGE or dma_platform.translated,
        contiguous=contiguous,
        pageable=kIOMemoryPageable in options,
        purgeable=kIOMemoryPurgeable in options,
        shared=kIOMemoryKernelUserShared in options or not task.is_current,
        mapped=task.is_current,
        highest=None if translated else highest,
    )


def make_place(options: IOOptions, alignment: int, highest: int | None) -> BusPlacement:
    """Return where a mapper may put the memory."""
    return BusPlacement(alignment, highest, physical=kIOMemoryMapperNone in options)
