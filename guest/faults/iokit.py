# SPDX-License-Identifier: Apache-2.0
"""Named faults of the rules that the allocator takes from IOKit, applied from outside."""

from __future__ import annotations

from collections.abc import Callable

from dma_rehearsal.guest.iobuffer import cxx
from dma_rehearsal.guest.iobuffer.descriptors import buffer
from dma_rehearsal.guest.iobuffer.memory.pinnable_backing import PinnableBacking
from dma_rehearsal.guest.iobuffer.os.pin import KernelMap


def kernel_mapping_cut_short() -> None:
    """The last complete() ends the kernel's mapping of pageable memory while others use it."""

    def lend(backing: PinnableBacking) -> tuple[KernelMap, Callable[[], None]]:
        return backing.make_kernel_map(), lambda: None

    setattr(PinnableBacking, PinnableBacking.lend_kernel_map.__name__, lend)


def strict_ignored() -> None:
    """Calls that IOKit refuses succeed for ported code."""
    cxx.IOBufferMemoryDescriptor.strict = False


def capacity_not_aligned_to() -> None:
    """Contiguous memory of `withCapacity` is at any address."""

    def alignment_of(_length: int) -> int:
        return 1

    setattr(buffer, alignment_of.__name__, alignment_of)


IMPLEMENTATIONS: dict[str, Callable[[], None]] = {
    "allocator-kernel-mapping-cut-short": kernel_mapping_cut_short,
    "allocator-strict-ignored": strict_ignored,
    "allocator-capacity-not-aligned-to": capacity_not_aligned_to,
}
